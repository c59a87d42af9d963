"""A profiler trace of chosen steps, for TensorBoard."""

from collections.abc import Callable

import jax
from etils import epath


class Profiler:
    """Traces the calls that take steps of `range(first, last)` into `<directory>/plugins/profile`.

    `steps` is (first, last), or None for no trace. `settle` is called before a trace begins or ends, and returns when
    TensorFlow is at nothing: its operations and the start of JAX's profiler at the same time end the process.
    """

    def __init__(self, directory: epath.Path, steps: tuple[int, int] | None, settle: Callable[[], None]):
        self._directory, self._steps, self._settle, self._running = directory, steps, settle, False

    def before(self, step: int, count: int, state) -> None:
        """Starts or ends the trace, before a call that takes `count` steps from `step` on."""
        wanted = self._steps is not None and step < self._steps[1] and step + count > self._steps[0]
        if wanted and not self._running:
            self._settle()
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        elif self._running and not wanted:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends a trace that is running, and writes it."""
        if self._running:
            self._running = False
            try:
                self._settle()
            finally:
                jax.profiler.stop_trace()
