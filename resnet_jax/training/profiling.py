"""A profiler trace of chosen steps, for TensorBoard."""

import jax
from etils import epath


class Profiler:
    """Traces the steps of a range `(first, last)`, given as None for no trace, into `<directory>/plugins/profile`."""

    def __init__(self, directory: epath.Path, steps: tuple[int, int] | None):
        self._directory, self._steps, self._running = directory, steps, False

    def before(self, step: int, state) -> None:
        """Starts or ends the trace, as the steps that follow `step` are within the range or not."""
        wanted = self._steps is not None and self._steps[0] <= step < self._steps[1]
        if wanted and not self._running:
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        elif not wanted:
            self.stop(state)

    def stop(self, state) -> None:
        """Ends a trace that is running, once `state` has been computed."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
