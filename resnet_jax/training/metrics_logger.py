"""Metrics of a run: collected from the device, written to disk, shown in the terminal, and checked to be finite."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax import image_grid
from resnet_jax.data.feed import EvaluationData
from resnet_jax.evaluation.validation import Mistake
from resnet_jax.runtime.parallel import CALLS_AHEAD, fetch
from resnet_jax.selfsupervised import embeddings
from resnet_jax.terminal import Reporter, duration, metric_titles, scores_table, table
from resnet_jax.training.metrics_writer import MetricsWriter
from resnet_jax.training.phase_timer import PhaseTimer

IMAGES_SHOWN = 16  # of the first batch
MUST_BE_FINITE = ("loss", "gradient_norm")
NOT_AVERAGED = ("learning_rate", "epsilon")  # A report has their last value.

logger = logging.getLogger(__name__)


class NonFiniteMetric(Exception):
    """A metric was not finite at a step.

    Args:
      what: the metric and its value, such as "the loss became nan".
      step: the number of the step, counted from 0.
      checked: the first and the last of the steps whose metrics were checked together with this one.
    """

    def __init__(self, what: str, step: int, checked: tuple[int, int]):
        first, last = checked
        super().__init__(f"{what} at step {step:,} (steps {first:,} to {last:,} were checked)")
        self.what = what
        self.step = step


class _Call(NamedTuple):
    """A call of the train step whose metrics are still on the device.

    Attributes:
      metrics: float32 [steps], by the name of the metric.
      end: the number of steps taken after the call.
      report_is_due: whether a report is due after the call.
    """

    metrics: Mapping[str, jax.Array]
    end: int
    report_is_due: bool

    def is_finished(self) -> bool:
        # JAX's own stub of `Array` lacks `is_ready`.
        return all(value.is_ready() for value in self.metrics.values())  # type: ignore[attr-defined]


class MetricsLogger:
    """Collects the metrics of the steps, and reports their means every `log_every_steps` steps.

    Metrics are fetched from the device only for a report or by `collect`. A report is made `CALLS_AHEAD` calls after it
    is due. By then the device has computed the metrics of the report and works on later calls, so it does not wait.

    Args:
      config: the settings.
      classes: the names of the classes.
      steps_per_epoch: the number of steps per epoch.
      writer: writes the metrics.
      reporter: shows the progress.
      timer: measures the time of each phase.
      step: the number of steps taken before this process began.
      saved: what `state_to_save` returned when the run was saved at this step; {} for a new run.
    """

    def __init__(
        self,
        config: ConfigDict,
        classes: tuple[str, ...],
        steps_per_epoch: int,
        writer: MetricsWriter,
        reporter: Reporter,
        timer: PhaseTimer,
        step: int = 0,
        saved: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._config = config
        self._classes = classes
        self._steps_per_epoch = steps_per_epoch
        self._total_steps = config.num_epochs * steps_per_epoch
        self._writer = writer
        self._reporter = reporter
        self._timer = timer
        self._unfetched: list[_Call] = []
        self._has_collapsed = False
        self._steps_recorded = step  # steps passed to `record`
        self._steps_fetched = step  # steps whose metrics are on the host
        self._steps_finished = step  # steps that the devices had finished when last checked
        self._first_step = step  # the step at which this process began
        self._since_report: dict[str, list[float]] = {  # the metrics of each fetched step since the last report
            name: list(values) for name, values in saved.get("since_report", {}).items()
        }
        self._window_step = step  # images/s are measured over a window of steps that begins here
        self._images_per_second = 0.0
        self.start_timer()

    def start_timer(self) -> None:
        """Begin to measure time. The time before counts as start-up."""
        self._timer.start()
        self._window_started = self._timer.started
        self._finished_at = self._timer.started

    def state_to_save(self) -> dict[str, object]:
        """Return what a checkpoint must hold so that a resumed run writes the same metrics as an uninterrupted one."""
        # Copies, because the checkpoint is written while later steps are recorded.
        since_report = {name: list(values) for name, values in self._since_report.items()}
        return {"since_report": since_report, "spent": self._timer.seconds_by_phase()}

    @contextlib.contextmanager
    def excluded_from_throughput(self, phase: str) -> Iterator[None]:
        """Exclude the time within this context from images/s, and count it for `phase`: "evaluation" or "saving".

        Call `collect` first.
        """
        started = time.monotonic()
        with self._timer.measure(phase):
            yield
        self._window_started += time.monotonic() - started

    # --- Metrics of the train step.

    def record(self, metrics: Mapping[str, jax.Array], num_steps: int) -> None:
        """Record the metrics of a call, and make a report that was due `CALLS_AHEAD` calls ago.

        Args:
          metrics: the metrics of the call, float32 [num_steps] by name; the devices may still be computing them.
          num_steps: the number of steps of the call.
        """
        newest_finished = next((call.end for call in reversed(self._unfetched) if call.is_finished()), 0)
        self._note_finished(newest_finished)
        reports_before = self._steps_recorded // self._config.log_every_steps
        self._steps_recorded += num_steps
        report_is_due = self._steps_recorded // self._config.log_every_steps > reports_before
        self._unfetched.append(_Call(metrics, self._steps_recorded, report_is_due))
        earlier_calls = self._unfetched[:-CALLS_AHEAD]
        if earlier_calls and earlier_calls[-1].report_is_due:
            self._fetch(earlier_calls)

    def collect(self) -> None:
        """Fetch all metrics that are still on the device, make the reports that are due, and write them to disk.

        Call this before a checkpoint is saved.

        Raises:
          NonFiniteMetric: for the first step whose loss or gradient norm was not finite.
        """
        while self._unfetched:
            # Fetch up to the next call after which a report is due, or everything if there is no such call.
            due = [number for number, call in enumerate(self._unfetched, start=1) if call.report_is_due]
            self._fetch(self._unfetched[: due[0] if due else None])
        self._writer.write()

    def _fetch(self, calls: list[_Call]) -> None:
        """Fetch the metrics of the oldest calls. A report may be due only after the last of these calls."""
        del self._unfetched[: len(calls)]
        for metrics in fetch([call.metrics for call in calls]):
            for name, values in metrics.items():
                self._since_report.setdefault(name, []).extend(values.tolist())
        self._steps_fetched = calls[-1].end
        self._note_finished(self._steps_fetched)
        self._check_finite()
        if calls[-1].report_is_due:
            self._report()

    def _note_finished(self, step: int) -> None:
        """Remember when the devices were first seen to have finished `step` steps."""
        if step > self._steps_finished:
            self._steps_finished = step
            self._finished_at = time.monotonic()

    def _check_finite(self) -> None:
        """Raise `NonFiniteMetric` if a fetched loss or gradient norm since the last report is not finite."""
        first = self._steps_fetched - len(self._since_report.get("loss", []))
        metrics_by_step = zip(*(self._since_report.get(name, []) for name in MUST_BE_FINITE), strict=True)
        for step, values in enumerate(metrics_by_step, start=first):
            for name, value in zip(MUST_BE_FINITE, values, strict=True):
                if not math.isfinite(value):
                    what = f"the {name.replace('_', ' ')} became {value}"
                    raise NonFiniteMetric(what, step, (first, self._steps_fetched - 1))

    def _report(self) -> None:
        """Write the means since the last report, and show the progress."""
        means = {name: float(np.mean(values)) for name, values in self._since_report.items()}
        means |= {name: self._since_report[name][-1] for name in NOT_AVERAGED if name in self._since_report}
        # The host runs ahead of the devices, so they may have finished no step since the last report. The speed of the
        # last report is then repeated.
        if self._steps_finished > self._window_step:
            images = (self._steps_finished - self._window_step) * self._config.batch_size
            self._images_per_second = images / (self._finished_at - self._window_started)
            self._window_step = self._steps_finished
            self._window_started = self._finished_at
        means.setdefault("images_per_second", self._images_per_second)  # A federated round measures its own.
        self._since_report = {}
        self._writer.scalars(self._steps_fetched, {f"train/{name}": value for name, value in means.items()})
        self._writer.write_if_due()
        # The time per step includes evaluation and saving, because the remaining steps include them as well.
        elapsed = time.monotonic() - self._timer.started
        seconds_per_step = elapsed / (self._steps_finished - self._first_step)
        remaining = duration(seconds_per_step * (self._total_steps - self._steps_finished))
        if "top1" in means:
            quality = f"top-1 {means['top1']:.2%}"
        else:
            quality = f"embedding std {means['embedding_std']:.2f}  effective rank {means['effective_rank']:.1f}"
            self._warn_of_collapse(means["embedding_std"], means["effective_rank"])
        self._reporter.update(
            f"{self._epoch()}  step {self._steps_fetched:,}/{self._total_steps:,}  loss {means['loss']:.4f}  "
            f"{quality}  learning rate {means['learning_rate']:.4g}  "
            f"{means['images_per_second']:,.0f} images/s  ETA {remaining}"
        )

    def _warn_of_collapse(self, embedding_std: float, effective_rank: float) -> None:
        """Log when embeddings collapse; see `embeddings.sign_of_collapse`."""
        sign = embeddings.sign_of_collapse(embedding_std, effective_rank)
        if sign and not self._has_collapsed:
            logger.warning(
                f"The embeddings have collapsed by step {self._steps_fetched:,}: {sign} "
                f"(embedding std {embedding_std:.3f}, effective rank {effective_rank:.2f}). Lower the learning rate or "
                "change the method."
            )
        self._has_collapsed = sign is not None

    # --- The first batch, and validation.

    def log_first_batch(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Write the settings and the first augmented training images to TensorBoard; see `image_grid.labeled_grid`."""
        self._writer.text(0, "config", f"```\n{settings_table(self._config)}\n```")
        grid = image_grid.labeled_grid(images[:IMAGES_SHOWN], labels[:IMAGES_SHOWN], self._classes)
        self._writer.image(0, "train/augmented", grid)

    def log_validation(
        self,
        metrics: Mapping[str, float],
        is_best: bool,
        mistakes: Sequence[Mistake],
        examples: EvaluationData,
    ) -> None:
        """Report the metrics of the validation split, and write its worst mistakes as images to TensorBoard.

        Args:
          metrics: the metrics by name.
          is_best: whether they are the best of the run so far.
          mistakes: the worst mistakes.
          examples: the validation examples.
        """
        titles = metric_titles(metrics)
        names = ("loss", *titles, "worst_decile")
        scalars = {f"validation/{name}": metrics[name] for name in names if name in metrics}
        self._writer.scalars(self._steps_fetched, scalars)
        if mistakes:
            # Class names have lines of their own, because captions wider than an image are cut off.
            captions = [f"label:\n{mistake.label}\npredicted:\n{mistake.prediction}" for mistake in mistakes]
            images = examples.images_at(np.array([mistake.position for mistake in mistakes]))
            self._writer.image(self._steps_fetched, "validation/mistakes", image_grid.grid(images, captions))
        best = "  (best so far)" if is_best else ""
        loss = f"loss {metrics['loss']:.4f}  " if "loss" in metrics else ""
        scores = "  ".join(f"{title} {metrics[name]:.2%}" for name, title in titles.items())
        if "worst_decile" in metrics:
            scores += f"  worst decile of clients {metrics['worst_decile']:.2%}"
        logger.info(
            f"{self._epoch()}  validation {loss}{scores}  after "
            f"{duration(self._timer.seconds_without_compilation())}{best}"
        )

    def _epoch(self) -> str:
        """Return the epoch of the last fetched step, counted from 1."""
        epoch = max(1, math.ceil(self._steps_fetched / self._steps_per_epoch))
        unit = "epoch" if self._config.federated.partition is None else "round"
        return f"{unit} {epoch:>{len(str(self._config.num_epochs))}}/{self._config.num_epochs}"


# --- What a run logs at its start and at its end ----------------------------------------------------------------------


def introduction(config: ConfigDict, params: dict, split_sizes: Mapping[str, int]) -> str:
    """Return the resolved settings, the table of parameters, and the number of examples per split."""
    sections = [
        settings_table(config),
        parameter_table(params),
        "Examples: " + ", ".join(f"{size:,} for {split}" for split, size in split_sizes.items()) + ".",
    ]
    return "\n\n".join(sections)


def settings_table(config: ConfigDict) -> str:
    """Return one line per setting: the dotted name and the value as JSON."""
    return table([(key, json.dumps(value)) for key, value in settings.leaves(config).items()])


def parameter_table(params: dict) -> str:
    """Return the number of arrays and parameters per layer, with totals. The blocks of a stage share a row.

    We do not use `clu.parameter_overview`, because it has a row per array (161 for ResNet-50), and because clu is an
    optional package.
    """
    modules_by_row: dict[str, dict] = {}
    for name in params:
        modules_by_row.setdefault(name.partition("_block")[0], {})[name] = params[name]
    rows = [
        (_row_title(row, modules_by_row[row]), len(jax.tree.leaves(modules_by_row[row])), _size(modules_by_row[row]))
        for row in _in_forward_order(modules_by_row)
    ]
    rows.append(("total", len(jax.tree.leaves(params)), _size(params)))
    return table(rows, header=("layers", "arrays", "parameters"))


def conclusion(result: Mapping[str, Any], path) -> str:
    """Return the summary of a finished or interrupted run: metrics of the chosen checkpoint, time, and directory."""
    lines = []
    scores = {split: result[split] for split in ("validation", "test") if result[split]}
    scores |= {f"test, TTA {name}": metrics for name, metrics in (result.get("test_tta") or {}).items()}
    if scores:
        lines += [scores_table(scores), ""]
    if result["checkpoint_step"] is None:
        checkpoint = "No checkpoint yet."
    else:
        chosen = "the best on validation" if result["validation"] else "the last"
        checkpoint = f"Checkpoint of step {result['checkpoint_step']:,}, {chosen}."
    lines.append(f"{checkpoint} {duration(result['seconds'])} of training. {path}")
    return "\n".join(lines)


def _size(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _row_title(row: str, modules: dict) -> str:
    if not row.startswith("stage"):
        return row
    return f"{row}, 1 block" if len(modules) == 1 else f"{row}, {len(modules)} blocks"


def _in_forward_order(rows: Iterable[str]) -> list[str]:
    """Sort rows in the order in which the model applies their layers."""
    order = ("stem", "stage", "final", "head", "projector", "predictor")
    return sorted(rows, key=lambda row: ([row.startswith(start) for start in order].index(True), row))
