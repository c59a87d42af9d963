"""What a run tells as it goes: progress in the terminal, figures on disk, and an alarm when the loss is not finite."""

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax import image_grid
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.evaluation.metrics import ExampleMetrics
from resnet_jax.runtime.parallel import CALLS_AHEAD, fetch
from resnet_jax.terminal import ProgressLine, duration, scores_table, table
from resnet_jax.training.metrics_writer import MetricsWriter
from resnet_jax.training.phase_timer import PhaseTimer

# --- What a run says at its start and at its end.


def introduction(config: ConfigDict, params: dict, sizes: Mapping[str, int]) -> str:
    """The resolved settings, the table of parameters, and the sizes of the splits in examples."""
    parts = [
        settings_table(config),
        parameter_table(params),
        "Examples: " + ", ".join(f"{size:,} for {split}" for split, size in sizes.items()) + ".",
    ]
    return "\n\n".join(parts)


def settings_table(config: ConfigDict) -> str:
    return table([(key, json.dumps(value)) for key, value in settings.leaves(config).items()])


def parameter_table(params: dict) -> str:
    """Arrays and parameters of each part of the network, with their totals; the blocks of a stage are one part."""
    parts: dict[str, dict] = {}
    for name in params:
        parts.setdefault(name.partition("_block")[0], {})[name] = params[name]
    rows = [
        (_title(part, parts[part]), len(jax.tree.leaves(parts[part])), _count(parts[part])) for part in _sort(parts)
    ]
    rows.append(("total", len(jax.tree.leaves(params)), _count(params)))
    return table(rows, header=("part", "arrays", "parameters"))


def conclusion(result: Mapping[str, object], path) -> str:
    """The summary of a run, finished or stopped: figures of the chosen checkpoint, time, and where it all is."""
    lines = []
    scores = {split: result[split] for split in ("validation", "test") if result[split]}
    if scores:
        lines += [scores_table(scores), ""]
    if result["checkpoint_step"] is None:
        checkpoint = "No checkpoint yet."
    else:
        chosen = "the best on validation" if result["validation"] else "the last"
        checkpoint = f"Checkpoint of step {result['checkpoint_step']:,}, {chosen}."
    lines.append(f"{checkpoint} {duration(result['seconds'])} of training. {path}")
    return "\n".join(lines)


def _count(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _title(part: str, modules: dict) -> str:
    blocks = "1 block" if len(modules) == 1 else f"{len(modules)} blocks"
    return f"{part}, {blocks}" if part.startswith("stage") else part


def _sort(parts: Iterable[str]) -> list[str]:
    """As the picture passes them."""
    order = ("stem", "stage", "final", "head")
    return sorted(parts, key=lambda part: ([part.startswith(start) for start in order].index(True), part))


PICTURES_SHOWN = 16
MUST_BE_FINITE = ("loss", "gradient_norm")


class NotFinite(Exception):
    """Tells `what` became not finite at a `step`, and which steps were looked at (the first and the last)."""

    def __init__(self, what: str, step: int, looked_at: tuple[int, int]):
        first, last = looked_at
        super().__init__(f"{what} at step {step:,} (steps {first:,} to {last:,} were looked at)")
        self.what, self.step = what, step


class _Call(NamedTuple):
    """A call of the train step whose metrics are still on the device; after it `end` steps have been taken."""

    metrics: Mapping[str, jax.Array]
    end: int
    is_reported: bool

    def is_finished(self) -> bool:
        return all(value.is_ready() for value in self.metrics.values())


class MetricsLogger:
    """Collects the metrics of the steps and reports their means every `log_every_steps` steps.

    Between two reports nothing is fetched from the device, and what is reported then it has done a while ago: it does
    not stand still for a report.
    """

    def __init__(
        self,
        config: ConfigDict,
        classes: tuple[str, ...],
        steps_per_epoch: int,
        summaries: MetricsWriter,
        progress: ProgressLine,
        clock: PhaseTimer,
    ):
        self._config, self._classes, self._steps_per_epoch = config, classes, steps_per_epoch
        self._total_steps = config.num_epochs * steps_per_epoch
        self._summaries, self._progress = summaries, progress
        self._clock = clock
        self._unfetched: list[_Call] = []
        self._since_report: dict[str, list[float]] = {}  # the metrics of each step
        self.resume(0, {})

    def resume(self, step: int, saved: Mapping[str, object]) -> None:
        """Goes on at `step` with what `saved()` gave when that was saved; {} at the start of a run."""
        self._taken = self._step = self._first_step = self._window_step = self._finished = step
        self._since_report = {name: list(values) for name, values in saved.get("since_report", {}).items()}
        self._images_per_second = 0.0
        self.start_clock()

    def start_clock(self) -> None:
        """Counts time from here on: what came before is start-up."""
        self._clock.start()
        self._window_started = self._finished_at = self._clock.started

    def saved(self) -> dict[str, object]:
        """What a checkpoint must hold for the records of a resumed run to equal those of an uninterrupted one."""
        # Copies, for a checkpoint is written while later steps are recorded.
        since_report = {name: list(values) for name, values in self._since_report.items()}
        return {"since_report": since_report, "spent": self._clock.spent()}

    @contextlib.contextmanager
    def paused(self, purpose: str) -> Iterator[None]:
        """Keeps what happens inside, "evaluation" or "saving", out of images/s; all steps have been collected."""
        started = time.monotonic()
        with self._clock.spending(purpose):
            yield
        self._window_started += time.monotonic() - started

    def introduce(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Puts the settings and the first augmented training pictures into TensorBoard; see `pictures.labelled`."""
        self._summaries.text(0, "config", f"```\n{settings_table(self._config)}\n```")
        shown = image_grid.labelled(images[:PICTURES_SHOWN], labels[:PICTURES_SHOWN], self._classes)
        self._summaries.picture(0, "train/augmented", shown)

    def record(self, metrics: Mapping[str, jax.Array], steps: int) -> None:
        """Takes the metrics of a call, float32 [steps] and still on the device, and reports if it is time.

        A report is made `CALLS_AHEAD` calls later: those calls keep the device busy in the meantime.
        """
        newest = next((call.end for call in reversed(self._unfetched) if call.is_finished()), 0)
        self._note_finished(newest)
        reports = self._taken // self._config.log_every_steps
        self._taken += steps
        is_reported = self._taken // self._config.log_every_steps > reports
        self._unfetched.append(_Call(metrics, self._taken, is_reported))
        done = self._unfetched[:-CALLS_AHEAD]
        if done and done[-1].is_reported:
            self._fetch(done)

    def collect(self) -> None:
        """Fetches what has not been fetched, and makes the reports that are due, which others can see then.

        Raises:
          NotFinite: of the first step whose loss or gradient was not. To be called before a checkpoint is made.
        """
        while self._unfetched:
            reported = [number for number, call in enumerate(self._unfetched, start=1) if call.is_reported]
            self._fetch(self._unfetched[: reported[0] if reported else None])
        self._summaries.write()

    def _fetch(self, calls: list[_Call]) -> None:
        """Fetches the first calls that have not been, of which the last alone may be reported."""
        del self._unfetched[: len(calls)]
        for metrics in fetch([call.metrics for call in calls]):
            for name, values in metrics.items():
                self._since_report.setdefault(name, []).extend(values.tolist())
        self._step = calls[-1].end
        self._note_finished(self._step)
        self._check()
        if calls[-1].is_reported:
            self._report()

    def _note_finished(self, step: int) -> None:
        """Takes down when the devices were first seen to have come so far."""
        if step > self._finished:
            self._finished, self._finished_at = step, time.monotonic()

    def _check(self) -> None:
        """Raises `NotFinite`, see `collect`."""
        first = self._step - len(self._since_report.get("loss", []))
        watched = zip(*(self._since_report.get(name, []) for name in MUST_BE_FINITE), strict=True)
        for step, values in enumerate(watched, start=first):
            for name, value in zip(MUST_BE_FINITE, values, strict=True):
                if not math.isfinite(value):
                    what = f"the {name.replace('_', ' ')} became {value}"
                    raise NotFinite(what, step, (first, self._step - 1))

    def evaluated(
        self,
        figures: Mapping[str, float],
        is_best: bool,
        outcomes: ExampleMetrics,
        examples: InMemoryExamples | StreamedExamples,
    ) -> None:
        """Reports figures of the validation split, and its worst mistakes as pictures."""
        names = ("loss", "top1", "top5")
        self._summaries.scalars(self._step, {f"validation/{name}": figures[name] for name in names})
        mistakes = np.flatnonzero(outcomes.prediction != outcomes.label)
        worst = mistakes[np.argsort(-outcomes.loss[mistakes], kind="stable")][:PICTURES_SHOWN]
        if len(worst):
            pairs = zip(outcomes.label[worst], outcomes.prediction[worst], strict=True)
            captions = [f"is {self._classes[label]}\nsaid {self._classes[prediction]}" for label, prediction in pairs]
            images = examples.pictures(outcomes.position[worst])
            self._summaries.picture(self._step, "validation/mistakes", image_grid.grid(images, captions))
        best = "  (best so far)" if is_best else ""
        self._progress.print(
            f"{self._epoch()}  validation loss {figures['loss']:.4f}  top-1 {figures['top1']:.2%}  "
            f"top-5 {figures['top5']:.2%}  after {duration(self._clock.seconds())}{best}"
        )

    def announce_stop(self) -> None:
        self._progress.print("Stopping, once everything is saved; Ctrl-C (again) stops at once.")

    def _report(self) -> None:
        """Writes the means since the last report, and shows the progress."""
        means = {name: float(np.mean(values)) for name, values in self._since_report.items()}
        means["learning_rate"] = self._since_report["learning_rate"][-1]
        if self._finished > self._window_step:  # Or the host, which is ahead, has reported on steps seen before.
            images = (self._finished - self._window_step) * self._config.batch_size
            self._images_per_second = images / (self._finished_at - self._window_started)
            self._window_step, self._window_started = self._finished, self._finished_at
        means["images_per_second"] = self._images_per_second
        self._since_report = {}
        self._summaries.scalars(self._step, {f"train/{name}": value for name, value in means.items()})
        self._summaries.show()
        # Over all that this process has done, evaluation and saving included: what is to come is of the same mixture.
        seconds_per_step = (time.monotonic() - self._clock.started) / (self._finished - self._first_step)
        remaining = duration(seconds_per_step * (self._total_steps - self._finished))
        self._progress.update(
            f"{self._epoch()}  step {self._step:,}/{self._total_steps:,}  loss {means['loss']:.4f}  "
            f"top-1 {means['top1']:.2%}  learning rate {means['learning_rate']:.4g}  "
            f"{means['images_per_second']:,.0f} images/s  ETA {remaining}"
        )

    def _epoch(self) -> str:
        """The epoch of the step just taken, counted from one."""
        epoch = max(1, -(-self._step // self._steps_per_epoch))
        return f"epoch {epoch:>{len(str(self._config.num_epochs))}}/{self._config.num_epochs}"
