"""The training loop: when to step, to evaluate, to save and to stop."""

import contextlib
import dataclasses
import time
from collections.abc import Callable

from resnet_jax import config_check
from resnet_jax.diagnostics import broken_step
from resnet_jax.diagnostics.replay import restore_newest
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import make_evaluate
from resnet_jax.evaluation.metrics import summarize
from resnet_jax.runtime import cluster, cpu_tuning, parallel, provenance
from resnet_jax.terminal import ProgressLine, duration
from resnet_jax.training import metrics_logger
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.interruption import EXCEPTIONS, interruption
from resnet_jax.training.metrics_logger import MetricsLogger, NotFinite
from resnet_jax.training.metrics_writer import MetricsWriter
from resnet_jax.training.phase_timer import PhaseTimer
from resnet_jax.training.profiling import Profiler
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import Inputs
from resnet_jax.workdir.workdir import WorkDir

Observe = Callable[[Experiment, int, int, Inputs], None]


class Loop:
    """Takes a run from its last checkpoint, or from its beginning, to its last step.

    `observe` is called before each call of the train step: with the parts of the run, the steps taken before, how many
    this call takes, and its inputs.

    Attributes:
      state: after the steps that have been taken; it may be on its way still.
      train_steps: the compiled steps, by how many a call takes.
      clock: tells where the time of the run goes.
    """

    def __init__(
        self, experiment: Experiment, directory: WorkDir, progress: ProgressLine, observe: Observe | None = None
    ):
        self._setup, self._config, self._directory, self._progress = experiment, experiment.config, directory, progress
        self._observe = observe
        self.state, saved, self._owes_evaluation = self._restore_or_create(progress)
        self._step = int(self.state.step)
        progress.print(metrics_logger.introduction(self._config, self.state.params, experiment.sizes))
        self.clock = PhaseTimer(saved.get("spent", {}))
        with self.clock.spending("compilation"):
            self.train_steps = self._compile(progress)
        self._pace = parallel.Pace()
        self._agree_to_save, self._agree_to_stop = (
            cluster.Agreement(experiment.mesh),
            cluster.Agreement(experiment.mesh),
        )
        self._stopped_by = 0  # a signal
        self._evaluate = make_evaluate(
            experiment.model, experiment.preprocess, self._config.batch_size, experiment.mesh
        )
        self._summaries = MetricsWriter(directory.path, self._step, progress, evaluated=not self._owes_evaluation)
        steps_per_epoch = experiment.feed.steps_per_epoch
        self._monitor = MetricsLogger(
            self._config, experiment.classes, steps_per_epoch, self._summaries, progress, self.clock
        )
        self._monitor.resume(self._step, saved)
        steps = config_check.profile_range(self._config)
        self._profiler = Profiler(directory.path, steps, self._summaries.flush)
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Takes the run to its end.

        Raises:
          KeyboardInterrupt, Preempted: after Ctrl-C and after SIGTERM, with everything saved.
          UserError: if the loss is not finite.
        """
        feed = self._setup.feed
        with (
            contextlib.closing(feed),
            contextlib.closing(self._summaries),
            contextlib.closing(self._profiler),
            interruption() as self._received,
        ):
            if self._step == 0:
                self._monitor.introduce(*parallel.fetch(self._setup.batch(0)))
            self._monitor.start_clock()
            try:
                if self._owes_evaluation:
                    self._end_epoch(self._step // feed.steps_per_epoch)
                for epoch in range(self._step // feed.steps_per_epoch, self._config.num_epochs):
                    self._train_until((epoch + 1) * feed.steps_per_epoch)
                    self._end_epoch(epoch + 1)
            except NotFinite as broken:
                self.state = None  # It is spoilt, and its memory is needed.
                raise broken_step.capture(
                    broken, self._setup, self._directory, self.train_steps, self._progress, self._received
                ) from None
            self._directory.checkpoints.wait()
            if self._interrupted():
                self._stop()

    def _train_until(self, end: int) -> None:
        """Takes the steps that are left of an epoch."""
        while self._step < end:
            steps = self._setup.steps_of_call(self._step)
            self._profiler.before(self._step, steps, self.state)
            with self.clock.spending("input"):
                inputs = self._setup.feed.inputs(self._step)
            if self._observe:
                self._observe(self._setup, self._step, steps, inputs)
            self.state, metrics = self.train_steps[steps](self.state, inputs)
            self._pace(metrics)
            self._step += steps
            self._monitor.record(metrics, steps)
            # The last step of an epoch is saved with the figures of its evaluation, by `_end_epoch`.
            if self._step < end and self._interrupted():
                self._save()
                self._stop()
            if self._step < end and self._save_is_due():
                self._save()

    def _end_epoch(self, epochs: int) -> None:
        """Evaluates and saves, as it is due after `epochs` epochs."""
        last = epochs == self._config.num_epochs
        figures, is_best = None, False
        self._owes_evaluation = self._setup.validation is not None and (
            last or epochs % self._config.evaluate_every_epochs == 0
        )
        if self._owes_evaluation:
            self._monitor.collect()  # The steps are waited for, so that their time does not count as evaluation's.
            with self._monitor.paused("evaluation"):
                figures, is_best = self._validate()
            self._owes_evaluation = figures is None
        due = last or epochs % self._config.checkpoint.every_epochs == 0 or self._save_is_due()
        interrupted = self._interrupted()
        if due or is_best or interrupted:
            self._save(figures)
        if interrupted:
            self._stop()

    def _validate(self) -> tuple[dict[str, float] | None, bool]:
        """Figures of the validation split, None if it is interrupted; and whether they are the best so far."""
        examples = self._setup.validation
        outcomes = self._evaluate(self.state.variables, examples, self._interrupted)
        if outcomes is None:
            return None, False
        figures = dataclasses.asdict(summarize(outcomes, len(examples)))
        is_best = self._directory.checkpoints.figures.is_best(figures)
        self._monitor.evaluated(figures, is_best, outcomes, examples)
        return figures, is_best

    def _interrupted(self) -> bool:
        """Whether a signal has asked to stop, in a run of several processes any of them: they stop together.

        The first time that it has is announced.
        """
        if not self._stopped_by:
            self._stopped_by = self._agree_to_stop(self._received() or 0)
            if self._stopped_by:
                self._monitor.announce_stop()
        return bool(self._stopped_by)

    def _save_is_due(self) -> bool:
        """By the clock, in a run of several processes by whichever is first: they save together."""
        waited = time.monotonic() - self._saved_at
        return bool(self._agree_to_save(waited >= 60 * self._config.checkpoint.every_minutes))

    def _save(self, figures: dict[str, float] | None = None) -> None:
        """Saves the state, once it is known to be finite and the records that lead up to it are on disk."""
        self._monitor.collect()
        self._summaries.flush()
        with self._monitor.paused("saving"):
            host = {
                "monitor": self._monitor.saved(),
                "owes_evaluation": self._owes_evaluation,
                "examples": self._setup.sizes,
                "provenance": provenance.describe(),
            }
            items = parallel.fetch(self.state.parts)
            self._directory.checkpoints.save(self._step, items, host, figures)
        self._saved_at = time.monotonic()

    def _stop(self) -> None:
        """Ends a run that a signal has stopped, when what has been saved is on disk."""
        self._directory.checkpoints.wait()
        raise EXCEPTIONS[self._stopped_by]

    def _restore_or_create(self, progress: ProgressLine) -> tuple[TrainState, dict, bool]:
        """The newest checkpoint that is intact, if there is any, what its monitor saved, and if it is yet to be scored.

        Without a checkpoint, the beginning.
        """
        if self._directory.checkpoints.latest_step() is None:
            return self._setup.initial_state(progress.print), {}, False
        step, state, host = restore_newest(self._setup, self._directory, progress)
        if host["examples"] != self._setup.sizes:
            raise UserError(
                f"this workdir belongs to a run on other data (there {host['examples']} examples, here "
                f"{self._setup.sizes}): choose another --workdir"
            )
        progress.print(f"Resuming from step {step:,} of {self._setup.total_steps:,} in {self._directory.path}.")
        for change in provenance.differences(host["provenance"], provenance.describe()):
            progress.print(f"Note: {change}; what follows may differ in its last bits from an uninterrupted run.")
        owes_evaluation = host["owes_evaluation"] and step not in self._directory.checkpoints.figures
        return state, host["monitor"], owes_evaluation

    def _compile(self, progress: ProgressLine) -> dict:
        if cpu_tuning.is_tuned():
            progress.print("Tuned for the CPU (memory is kept, convolutions are XLA's own); --notune_cpu turns it off.")
        progress.print("Compiling the train step ...")
        started = time.monotonic()
        compiled = self._setup.compile_steps(like=self.state)
        progress.print(f"... compiled in {duration(time.monotonic() - started)}.")
        return compiled
