"""Networks that are scored on the same examples, be it one or several that are to be compared."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from resnet_jax.data import splits
from resnet_jax.data.examples import Examples
from resnet_jax.data.folder import canonical_name
from resnet_jax.data.inputs import common_classes, select
from resnet_jax.data.selection import Progress, Selection
from resnet_jax.data.sources import open_dataset
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.unreadable import UnreadablePictures
from resnet_jax.errors import UserError
from resnet_jax.evaluation.metrics import Outcomes
from resnet_jax.evaluation.scoring import open_examples, score
from resnet_jax.run import Run

Counter = Callable[[str], Progress]


def check_distinct(workdirs: Sequence[str]) -> None:
    """Raises `UserError` where one directory is named twice: nothing is learned from comparing a run with itself."""
    places = list(map(os.path.realpath, workdirs))
    for place, workdir in enumerate(workdirs):
        if places[place] in places[:place]:
            raise UserError(f"{workdir} is named twice: compare it with another run")


def quiet(what: str) -> Progress:
    """Tells nobody how far `what` has come."""
    return lambda done, total: None


class Scored(NamedTuple):
    """The outcomes of a network, and where to look at the pictures."""

    outcomes: Outcomes
    examples: Examples | StreamedExamples


@dataclasses.dataclass(frozen=True)
class Trial:
    """Networks by name, and the examples that they are scored on.

    Attributes:
      runs: the networks; they tell the same classes apart.
      dataset: the name of the data set.
      split: what the examples are, such as "test".
      selection: the examples.
      unreadable: what of them cannot be read.
    """

    runs: Mapping[str, Run]
    dataset: str
    split: str
    selection: Selection
    unreadable: UnreadablePictures
    _resident: list[Examples] = dataclasses.field(default_factory=list, repr=False)

    @classmethod
    def open(
        cls,
        runs: Mapping[str, Run],
        tell: Callable[[str], None],
        progress: Progress | None = None,
        split: str | None = None,
        dataset: str | None = None,
        data_dir: str | None = None,
    ) -> "Trial":
        """Opens the data of the first network, or another set.

        Args:
          runs: one network or more.
          tell: takes a line on each picture that cannot be read.
          progress: is told how far reading has come.
          split: unset: the test split of the first network, of another set its own, or the only one it has.
          dataset: the name of another data set, whose classes must be among theirs, by name.
          data_dir: where it is; unset: as in training.

        Raises:
          UserError: if there is no such data or split, or the networks tell different classes apart.
        """
        first_name, first = next(iter(runs.items()))
        for name, run in runs.items():
            if set(run.classes) != set(first.classes):
                raise UserError(f"{name} tells other classes apart than {first_name}: compare networks of the same")
        settings, dataset = first.config.dataset.copy_and_resolve_references(), dataset and canonical_name(dataset)
        if dataset and dataset != settings.name:
            settings.update(name=dataset, data_dir=None, train_split="train", validation_split="", test_split="")
        sources = open_dataset(settings.name, data_dir or settings.data_dir)
        common_classes(sources)
        splits.resolve(settings, sources)
        if settings.name != first.config.dataset.name:
            settings.validation_split = settings.validation_split or "none"  # Nobody held a part of it out.
            split = split or (next(iter(sources)) if len(sources) == 1 else None)
        split = split or settings.test_split
        if split == "none":
            raise UserError(f"there is no test split: name another with --split, of {', '.join(sources)}")
        unreadable = UnreadablePictures(settings.max_unreadable, tell)
        selection = select(settings, sources, split, unreadable, progress)
        return cls(runs, settings.name, split, selection, unreadable)

    def score(self, name: str, counter: Counter = quiet, tta: str | None = None) -> Scored:
        """Scores a network; its outcomes number the classes as the first one does, and can be compared.

        Args:
          name: of the network.
          counter: makes, of what is done, what is told how far that has come, such as `ProgressLine.counter`.
          tta: test-time augmentation, see `views`.

        Raises:
          UserError: as `scoring.open_examples` and `scoring.score` do.
        """
        run = self.runs[name]
        examples = self._examples(run, counter("reading examples"))
        progress, keep = counter("scoring examples"), len(self.runs) > 1
        outcomes = score(run, examples, self.selection.classes, progress, tta, keep)
        return Scored(_renumbered(outcomes, run.classes, self.classes), examples)

    def _examples(self, run: Run, progress: Progress) -> Examples | StreamedExamples:
        """Those in memory are the same for all networks, and are read once."""
        if run.config.dataset.name != self.dataset:
            return open_examples(run, self.selection, self.unreadable, progress, other_data=True)
        if run.config.dataset.feed != "resident":
            return open_examples(run, self.selection, self.unreadable, progress)
        if not self._resident:
            self._resident.append(open_examples(run, self.selection, self.unreadable, progress))
        return self._resident[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by the number that the outcomes give them."""
        return next(iter(self.runs.values())).classes


def _renumbered(outcomes: Outcomes, classes: tuple[str, ...], wanted: tuple[str, ...]) -> Outcomes:
    """Outcomes that number the same classes in another order."""
    if classes == wanted:
        return outcomes
    numbers = np.array([wanted.index(name) for name in classes], np.int32)
    return outcomes._replace(
        label=numbers[outcomes.label],
        prediction=numbers[outcomes.prediction],
        log_probabilities=outcomes.log_probabilities[:, np.argsort(numbers)],
    )
