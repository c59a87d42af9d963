"""A profiler trace of selected steps, for TensorBoard."""

from collections.abc import Callable

import jax
from etils import epath


class Profiler:
    """Traces the calls that take any of the selected steps, and writes the trace to `<directory>/plugins/profile`.

    Args:
      directory: the run directory.
      steps: the selected steps as (start, stop), excluding `stop`; None for no trace.
      wait_for_tensorflow: called before a trace begins and before it ends. It returns when no TensorFlow operation is
        running, because such an operation would crash the process while JAX's profiler starts.
    """

    def __init__(self, directory: epath.Path, steps: tuple[int, int] | None, wait_for_tensorflow: Callable[[], None]):
        self._directory = directory
        self._steps = steps
        self._wait_for_tensorflow = wait_for_tensorflow
        self._is_running = False

    def start_or_stop(self, step: int, num_steps: int, state) -> None:
        """Start or stop the trace if necessary. Call this before each call of the train step.

        Args:
          step: the number of steps taken before the call.
          num_steps: the number of steps that the call takes.
          state: the newest state. Before a trace is stopped, the devices finish computing it.
        """
        is_traced = self._steps is not None and step < self._steps[1] and step + num_steps > self._steps[0]
        if is_traced and not self._is_running:
            self._wait_for_tensorflow()
            jax.profiler.start_trace(str(self._directory))
            self._is_running = True
        elif self._is_running and not is_traced:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Stop the trace if it is running, and write it."""
        if self._is_running:
            self._is_running = False
            try:
                self._wait_for_tensorflow()
            finally:
                jax.profiler.stop_trace()
