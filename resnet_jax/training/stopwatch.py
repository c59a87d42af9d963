"""The time that a loop takes, and that its compiled step takes alone, by turns."""

import time
from collections.abc import Callable

import jax

from resnet_jax.parallel import CALLS_AHEAD
from resnet_jax.training.loop import Loop
from resnet_jax.training.parts import Setup
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import Inputs

ROUNDS = 7  # and one before them, for warming up
SECONDS_A_ROUND = 3.0  # of the loop, and of the step alone
FEWEST_CALLS = 1 + CALLS_AHEAD  # of the step in each, or the host would not wait for it
SIDE_WORK = ("evaluation", "saving")  # what the loop does besides, and is not counted


class Enough(Exception):
    """Ends the loop: enough has been measured."""


class Stopwatch:
    """Watches a loop, and in turn with it times its compiled step alone, by calls of the same sizes.

    Attributes:
      loop, step, waited: seconds a step in each round, and those of `loop` that were waited for input.
    """

    def __init__(self, show: Callable[[int, int], None]):
        self._show = show
        self._calls: list[int] = []  # of this round: how many steps each takes
        self._calls_a_round: int | None = None
        self._to_pass = 0  # calls before the next round begins
        self.loop, self.step, self.waited = [], [], []

    def watch(self, loop: Loop, state: TrainState) -> None:
        """To be called before the loop begins, with a state for the step alone."""
        self._loop, self._state = loop, state

    def __call__(self, setup: Setup, step: int, steps: int, inputs: Inputs) -> None:
        """Is called before each call of the step in the loop: see `Loop`."""
        if self._calls and self._round_is_over():
            self._end(inputs)
            # Workers went on while the step ran alone; with what they have ready the loop would look too quick.
            self._calls, self._to_pass = [], setup.feed.most_ahead
        if self._to_pass:
            self._to_pass -= 1
            return
        if not self._calls:
            self._begin()
        self._calls.append(steps)

    def _begin(self) -> None:
        jax.block_until_ready(self._loop.state)
        self._spent, self._began = self._loop.clock.spent(), time.perf_counter()

    def _round_is_over(self) -> bool:
        if self._calls_a_round is None:
            long_enough = time.perf_counter() - self._began >= SECONDS_A_ROUND
            return long_enough and len(self._calls) >= FEWEST_CALLS
        return len(self._calls) == self._calls_a_round

    def _end(self, inputs: Inputs) -> None:
        """Notes what the loop took, and then how long its calls take alone."""
        jax.block_until_ready(self._loop.state)
        ended, spent = time.perf_counter(), self._loop.clock.spent()
        aside = sum(spent[purpose] - self._spent[purpose] for purpose in SIDE_WORK)
        for steps in self._calls:
            self._state, _ = self._loop.train_steps[steps](self._state, inputs)
        jax.block_until_ready(self._state)
        alone = time.perf_counter() - ended
        if self._calls_a_round is not None:  # The first round was for warming up.
            taken = sum(self._calls)
            self.loop.append((ended - self._began - aside) / taken)
            self.step.append(alone / taken)
            self.waited.append((spent["input"] - self._spent["input"]) / taken)
        self._calls_a_round = len(self._calls)
        self._show(len(self.loop), ROUNDS)
        if len(self.loop) == ROUNDS:
            raise Enough
