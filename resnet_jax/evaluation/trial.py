"""Networks that are scored on the same examples, be it one or several that are to be compared."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from resnet_jax.data import splits
from resnet_jax.data.folder import canonical_name
from resnet_jax.data.inputs import common_classes, select
from resnet_jax.data.selection import Progress, Selection
from resnet_jax.data.sources import open_dataset
from resnet_jax.data.unreadable import UnreadablePictures
from resnet_jax.errors import UserError
from resnet_jax.evaluation.metrics import Outcomes
from resnet_jax.evaluation.scoring import Scored, score
from resnet_jax.run import Run


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
          split: unset: the test split of the first network, of another set its own.
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
            settings.update(name=dataset, data_dir=None, train_split="train", validation_split="none", test_split="")
        sources = open_dataset(settings.name, data_dir or settings.data_dir)
        common_classes(sources)
        splits.resolve(settings, sources)
        split = split or settings.test_split
        if split == "none":
            raise UserError("there is no test split: name another, such as --split=validation or --split=train")
        unreadable = UnreadablePictures(settings.max_unreadable, tell)
        selection = select(settings, sources, split, unreadable, progress)
        return cls(runs, settings.name, split, selection, unreadable)

    def score(self, name: str, progress: Progress | None = None, tta: str | None = None) -> Scored:
        """Scores a network; its outcomes number the classes as the first one does, and can be compared.

        Raises:
          UserError: as `scoring.score` does.
        """
        run = self.runs[name]
        scored = score(
            run,
            self.selection,
            self.unreadable,
            progress,
            tta,
            keep=len(self.runs) > 1,
            other_data=run.config.dataset.name != self.dataset,
        )
        return scored._replace(outcomes=_renumbered(scored.outcomes, run.classes, self.classes))

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
