"""The training loop: restore, compile, then for each epoch: steps, log, evaluate, save."""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax

from resnet_jax import config as settings
from resnet_jax import config_check
from resnet_jax.data.feed import Inputs
from resnet_jax.errors import UserError
from resnet_jax.evaluation import nearest_neighbors
from resnet_jax.evaluation.evaluate import make_evaluate
from resnet_jax.evaluation.validation import Validate, make_validate
from resnet_jax.runtime import cluster, cpu_tuning, parallel, provenance
from resnet_jax.terminal import Reporter, duration
from resnet_jax.training import early_stopping, metrics_logger, nan_capture
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.experiment import Call, Experiment
from resnet_jax.training.federated_experiment import FederatedExperiment
from resnet_jax.training.federated_rounds import Round
from resnet_jax.training.interruption import EXCEPTION_BY_SIGNAL, deferred_signals
from resnet_jax.training.metrics_logger import MetricsLogger, NonFiniteMetric
from resnet_jax.training.metrics_writer import MetricsWriter
from resnet_jax.training.phase_timer import PhaseTimer
from resnet_jax.training.profiling import Profiler
from resnet_jax.training.recalibration import Recalibrate, make_recalibrate
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import SINGLE_STEP, TrainStep, compile_train_steps
from resnet_jax.workdir.checkpoints import Checkpoints
from resnet_jax.workdir.workdir import WorkDir

# A function that is called before each call of the train step. Its arguments are the experiment, the number of steps
# taken before the call, the number of steps that the call takes, and the inputs of the call.
Observe = Callable[[Experiment, int, int, Inputs], None]

logger = logging.getLogger(__name__)


class Validation(NamedTuple):
    """Validation metrics after an epoch, and whether they are the best of the run so far."""

    metrics: dict[str, float]
    is_best: bool


class Loop:
    """Trains a run to its last step, from its newest checkpoint or from the beginning. Call `run` to start.

    Args:
      experiment: what to train.
      directory: the run directory.
      checkpoints: its checkpoints, open for writing.
      reporter: shows progress.
      observe: called before each call of the train step; see `Observe`.
      began: the Unix time at which this start of the run began; None: now.

    Attributes:
      state: the newest state; the devices may still be computing it.
      step: the number of steps taken.
      train_steps: the train step, compiled for each call that is still to come.
      timer: the seconds that the run has spent in each phase.
      began: the Unix time of the first start of the run.
    """

    def __init__(
        self,
        experiment: Experiment,
        directory: WorkDir,
        checkpoints: Checkpoints,
        reporter: Reporter,
        observe: Observe | None = None,
        began: float | None = None,
    ):
        self.experiment = experiment
        self.state: TrainState  # Set by `run`.
        self.step = 0
        self.train_steps: dict[Call, TrainStep] = {}
        self.timer = PhaseTimer({})
        self.began = time.time() if began is None else began
        self._config = experiment.config
        self._directory = directory
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._observe = observe
        self._early_stopping = EarlyStopping(experiment.config.early_stopping)
        self._evaluation_pending = False  # whether the evaluation after the last finished epoch is still to be made
        self._saved_metrics_state: dict = {}  # result of `MetricsLogger.state_to_save`, from the checkpoint
        self._agree_to_save = cluster.Agreement(experiment.mesh)
        self._agree_to_stop = cluster.Agreement(experiment.mesh)
        self._stop_signal = 0  # the signal for which all processes have agreed to stop; 0 for none
        self._saved_at = 0.0  # the `time.monotonic()` of the last save

        # Set by `run`.
        self._validate: Validate
        self._recalibrate: Recalibrate
        self._writer: MetricsWriter
        self._metrics: MetricsLogger
        self._profiler: Profiler
        self._received_signal: Callable[[], signal.Signals | None]

    def run(self) -> None:
        """Train to the last step.

        Raises:
          KeyboardInterrupt, Preempted: after Ctrl-C and after SIGTERM or SIGHUP, with everything saved. A Ctrl-C that
            follows another signal raises at once, and nothing is saved.
          UserError: if the loss or the gradient norm is not finite, or if the checkpoints belong to another run.
        """
        self._restore_or_initialize()
        self._compile()
        self._directory.forget_result()
        self._directory.write_config_and_classes(self._config, self.experiment.classes)
        self.began = self._directory.began(self.began)

        feed, pace = self.experiment.feed, parallel.Pace()
        with self._open_logs(), deferred_signals() as self._received_signal, self._explain_non_finite_metrics():
            self._start_logging()
            if self._evaluation_pending:  # The run was stopped during this evaluation, so repeat it.
                epochs_done = self.step // feed.steps_per_epoch
                self._save_after_epoch(epochs_done, self._evaluate_if_due(epochs_done))

            for epoch in range(self.step // feed.steps_per_epoch, self._config.num_epochs):
                if self._early_stopping.is_due():
                    logger.info(f"Stopping early after {epoch} epochs: {early_stopping.reason(self._config)}.")
                    break
                for step, call in self.experiment.calls_of_epoch(self.step):
                    self._profiler.start_or_stop(step, call.num_steps, self.state)
                    with self.timer.measure("input"):
                        inputs = feed.inputs(step)
                    if self._observe:
                        self._observe(self.experiment, step, call.num_steps, inputs)
                    with jax.profiler.StepTraceAnnotation("train", step_num=step), jax.transfer_guard("disallow"):
                        self.state, metrics = self.train_steps[call](self.state, inputs)
                    pace(metrics)
                    self.step = step + call.num_steps
                    self._metrics.record(metrics, call.num_steps)
                    if self.step % feed.steps_per_epoch:  # After the last step of an epoch, evaluation comes first.
                        self._save_or_stop_if_requested()
                validation = self._evaluate_if_due(epoch + 1)
                self._save_after_epoch(epoch + 1, validation)

            self._checkpoints.wait()
            for _ in range(1 + parallel.CALLS_AHEAD):  # A request is granted up to `CALLS_AHEAD` calls later.
                if self._stop_requested():
                    self._stop()

    # --- Start-up.

    def _restore_or_initialize(self) -> None:
        """Restore the newest intact checkpoint if there is one; otherwise create the initial state."""
        if self._checkpoints.latest_step() is None:
            self.state = self.experiment.initial_state()
        else:
            self._restore()
        logger.info(metrics_logger.introduction(self._config, self.state.params, self.experiment.split_sizes))

    def _restore(self) -> None:
        """Restore the newest intact checkpoint, and what was saved beside the state."""
        self.step, self.state, saved = self.experiment.restore_newest(self._checkpoints)
        self._check_data(saved)
        logger.info(f"Resuming from step {self.step:,} of {self.experiment.total_steps:,} in {self._directory.path}.")
        for change in provenance.differences(saved["provenance"], provenance.describe()):
            logger.info(f"Note: {change}. From here on the run may differ in its last bits from an uninterrupted one.")
        # If validation metrics exist, an earlier resume has already repeated the interrupted evaluation.
        self._evaluation_pending = saved["owes_evaluation"] and self.step not in self._checkpoints.metrics
        self._early_stopping = EarlyStopping(self._config.early_stopping, saved.get("early_stopping"))
        validation = self._checkpoints.metrics.for_step(self.step)
        if saved["owes_evaluation"] and validation is not None:  # The evaluation came after the save.
            self._early_stopping.update(validation)
        self._saved_metrics_state = saved["monitor"]  # The name of the key is historical.
        self.timer = PhaseTimer(self._saved_metrics_state.get("spent", {}))

    def _check_data(self, saved: dict) -> None:
        """Raise `UserError` if the data has changed since the checkpoint was saved.

        The metrics in the log, and those that chose the best checkpoint, would then belong to other data.
        """
        if saved["examples"] != self.experiment.split_sizes:
            raise UserError(
                f"this workdir belongs to a run on other data (stored: {_format_sizes(saved['examples'])}; now: "
                f"{_format_sizes(self.experiment.split_sizes)}). Choose another --workdir."
            )
        stored = saved.get("content_digests", {})  # Older checkpoints do not have them.
        changed = [name for name, digest in stored.items() if digest != self.experiment.content_digests[name]]
        if changed:
            raise UserError(
                f"the data of this run has changed since it was saved ({' and '.join(changed)}). Restore the data, or "
                "choose another --workdir."
            )

    def _compile(self) -> None:
        tuning = cpu_tuning.log_line(self.experiment.mesh.devices.flat[0].platform)
        if tuning:
            logger.info(tuning)
        logger.info("Compiling the train step ...")
        started = time.monotonic()
        with self.timer.measure("compilation"):
            if isinstance(self.experiment, FederatedExperiment):
                self.train_steps = {
                    SINGLE_STEP: Round(self.experiment, self._reporter, self._save_or_stop_if_requested)
                }
            else:
                self.train_steps = compile_train_steps(self.experiment, self.experiment.calls(self.step), self.state)
        logger.info(f"... compiled in {duration(time.monotonic() - started)}.")

    @contextlib.contextmanager
    def _open_logs(self) -> Iterator[None]:
        """Open the metrics writer and the profiler. When the context ends, close them and the feed."""
        experiment, config = self.experiment, self._config
        self._validate = _make_validate(experiment)
        self._recalibrate = make_recalibrate(experiment)
        self._writer = MetricsWriter(self._directory.path, self.step, evaluated=not self._evaluation_pending)
        self._metrics = MetricsLogger(
            config,
            experiment.classes,
            experiment.feed.steps_per_epoch,
            self._writer,
            self._reporter,
            self.timer,
            self.step,
            self._saved_metrics_state,
        )
        self._profiler = Profiler(self._directory.path, config_check.profile_range(config), self._writer.flush)
        with (
            contextlib.closing(experiment.feed),
            contextlib.closing(self._writer),
            contextlib.closing(self._profiler),
        ):
            yield

    def _start_logging(self) -> None:
        """Log the first batch if the run is new, and start to measure time."""
        if self.step == 0:
            self._metrics.log_first_batch(*parallel.fetch(self.experiment.batch_at(0)))
        self._saved_at = time.monotonic()
        self._metrics.start_timer()

    # --- Evaluation and saving.

    def _evaluate_if_due(self, epochs_done: int) -> Validation | None:
        """Evaluate on the validation split if that is due after this number of epochs. Recalibrate first if requested.

        Returns:
          The result, or None if no evaluation is due, if there are no validation examples, or if a request to stop
          interrupted the evaluation.
        """
        is_last = epochs_done == self._config.num_epochs
        examples = self.experiment.validation
        is_due = is_last or epochs_done % self._config.evaluate_every_epochs == 0
        recalibrates = self._config.ema_recalibrate_steps > 0
        self._evaluation_pending = is_due and (examples is not None or recalibrates)
        if not is_due or (examples is None and not recalibrates):
            return None
        self._metrics.collect()  # Wait for the steps, so that their time does not count as evaluation.
        with self._metrics.excluded_from_throughput("evaluation"):
            if recalibrates:
                recalibrated = self._recalibrate(self.state, self.step, self._stop_requested)
                if recalibrated is None:
                    return None
                self.state = recalibrated
            if examples is None:
                self._evaluation_pending = False
                return None
            validated = self._validate(self.experiment.evaluated_variables(self.state), self._stop_requested)
            if validated is None:
                return None
            metrics = validated.metrics
            is_best = self._checkpoints.metrics.is_best(metrics)
            self._metrics.log_validation(metrics, is_best, validated.mistakes, examples)
            self._early_stopping.update(metrics)
        self._evaluation_pending = False
        return Validation(metrics, is_best)

    def _save_after_epoch(self, epochs_done: int, validation: Validation | None) -> None:
        """Save a checkpoint after an epoch if one is due, and stop the run if a signal requested it.

        A checkpoint is due after every `checkpoint.every_epochs` epochs and every `checkpoint.every_minutes` minutes,
        after the last epoch, if `validation` is the best so far, and before a stop.
        """
        is_last = epochs_done == self._config.num_epochs or self._early_stopping.is_due()
        is_due = is_last or epochs_done % self._config.checkpoint.every_epochs == 0 or self._save_requested()
        stop_requested = self._stop_requested()
        if is_due or stop_requested or (validation is not None and validation.is_best):
            self._save(validation)
        if stop_requested:
            self._stop()

    def _save(self, validation: Validation | None = None) -> None:
        """Put all metrics so far on disk, then save a checkpoint.

        Raises:
          NonFiniteMetric: if a metric so far is not finite; no checkpoint is saved then.
        """
        self._metrics.collect()
        self._writer.flush()
        with self._metrics.excluded_from_throughput("saving"):
            metadata = {
                "monitor": self._metrics.state_to_save(),
                "owes_evaluation": self._evaluation_pending,
                "early_stopping": self._early_stopping.state_to_save(),
                "examples": self.experiment.split_sizes,
                "content_digests": dict(self.experiment.content_digests),
                "provenance": provenance.describe(),
            }
            items = parallel.fetch(self.state.checkpoint_items)
            self._checkpoints.save(self.step, items, metadata, None if validation is None else validation.metrics)
        self._saved_at = time.monotonic()

    # --- Requests to save and to stop. In a run of several processes, all processes act on a request at the same step.

    def _save_or_stop_if_requested(self) -> None:
        if self._stop_requested():
            self._save()
            self._stop()
        if self._save_requested():
            self._save()

    def _save_requested(self) -> bool:
        """Return whether `checkpoint.every_minutes` have passed since the last save, by the clock of any process."""
        seconds = time.monotonic() - self._saved_at
        return bool(self._agree_to_save(seconds >= 60 * self._config.checkpoint.every_minutes))

    def _stop_requested(self) -> bool:
        """Return whether any process has received a signal to stop. Log the first such signal."""
        if not self._stop_signal:
            self._stop_signal = self._agree_to_stop(self._received_signal() or 0)
            if self._stop_signal:
                logger.info("Stopping as soon as everything is saved. Press Ctrl-C (again) to stop at once.")
        return bool(self._stop_signal)

    def _stop(self) -> None:
        """Wait until the last checkpoint is on disk, and raise the exception of the signal."""
        self._checkpoints.wait()
        raise EXCEPTION_BY_SIGNAL[self._stop_signal]

    @contextlib.contextmanager
    def _explain_non_finite_metrics(self) -> Iterator[None]:
        """Turn `NonFiniteMetric` into an error that explains it. The step is saved in the run directory."""
        try:
            yield
        except NonFiniteMetric as error:
            del self.state  # Replaying the steps needs its memory.
            raise nan_capture.capture(
                error,
                self.experiment,
                self._directory,
                self._checkpoints,
                self.train_steps,
                self._reporter,
                self._received_signal,
            ) from None


def _make_validate(experiment: Experiment) -> Validate:
    """Return the function that validates a run; without validation examples, it is never called."""
    if experiment.validation is None:
        return lambda variables, interrupted: None
    model, preprocess, mesh = experiment.model, experiment.preprocess, experiment.mesh
    batch_size = settings.microbatch_size(experiment.config)  # More might not fit into memory.
    if experiment.bank is not None:
        return nearest_neighbors.make_validate(
            model, preprocess, batch_size, mesh, experiment.bank, experiment.validation
        )
    evaluate = make_evaluate(model, preprocess, batch_size, mesh, label_sets=experiment.label_sets)
    client_shares = experiment.label_shares() if isinstance(experiment, FederatedExperiment) else None
    return make_validate(evaluate, experiment.validation, experiment.label_sets, experiment.classes, client_shares)


def _format_sizes(split_sizes: Mapping[str, int]) -> str:
    """Return the number of examples per split, such as "360 training and 40 validation examples"."""
    return " and ".join(f"{size:,} {split}" for split, size in split_sizes.items()) + " examples"
