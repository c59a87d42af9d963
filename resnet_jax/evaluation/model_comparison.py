"""Networks that are scored on the same examples, be it one or several that are to be compared."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import stats

from resnet_jax.data import splits
from resnet_jax.data.dataset import common_classes, select
from resnet_jax.data.folder import canonical_name
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.sources import open_sources
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.evaluate import open_examples, score
from resnet_jax.evaluation.metrics import Assessment, ExampleMetrics, assess
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel

# --- Networks beside one another: whether they differ by more than chance, and what they say together.


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Of two networks on the same examples: how many only the first had right, and how many only the second.

    p_value: how likely a split at least as uneven is, were both equally good (McNemar 1947, by the exact binomial
    distribution).
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: ExampleMetrics, second: ExampleMetrics) -> McNemar:
    """Compares two networks by the examples that one had right and the other wrong."""
    if not np.array_equal(first.label, second.label):
        raise ValueError("these are outcomes of different examples")
    first_right, second_right = first.prediction == first.label, second.prediction == second.label
    only_first, only_second = int(np.sum(first_right & ~second_right)), int(np.sum(second_right & ~first_right))
    differing = only_first + only_second
    p_value = float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p_value)


def ensemble(members: Sequence[ExampleMetrics]) -> ExampleMetrics:
    """The outcomes of networks that answer together, by the mean of their probabilities, which they must hold.

    (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2.4.)
    """
    first = members[0]
    if not all(np.array_equal(member.label, first.label) for member in members):
        raise ValueError("these are outcomes of different examples")
    # Of their sum, which as logits is the same as their mean.
    logits = functools.reduce(np.logaddexp, (member.log_probabilities for member in members))
    return parallel.fetch(metrics.outcomes(*map(jnp.asarray, (logits, first.label, first.position))))



def check_distinct(workdirs: Sequence[str]) -> None:
    """Raises `UserError` where one directory is named twice: nothing is learned from comparing a run with itself."""
    places = list(map(os.path.realpath, workdirs))
    for place, workdir in enumerate(workdirs):
        if places[place] in places[:place]:
            raise UserError(f"{workdir} is named twice: compare it with another run")


class Scored(NamedTuple):
    """The outcomes of a network, and where to look at the pictures."""

    outcomes: ExampleMetrics
    examples: InMemoryExamples | StreamedExamples


@dataclasses.dataclass(frozen=True)
class Trial:
    """Networks by name, and the examples that they are scored on.

    Attributes:
      runs: the networks; they tell the same classes apart.
      dataset: the name of the data set.
      split: what the examples are, such as "test".
      selection: the examples.
      reporter: shows the progress of reading and scoring, and counts the images that cannot be read.
    """

    runs: Mapping[str, TrainedModel]
    dataset: str
    split: str
    selection: Subset
    reporter: Reporter
    _resident: list[InMemoryExamples] = dataclasses.field(default_factory=list, repr=False)

    @classmethod
    def open(
        cls,
        runs: Mapping[str, TrainedModel],
        reporter: Reporter,
        split: str | None = None,
        dataset: str | None = None,
        data_dir: str | None = None,
    ) -> "Trial":
        """Opens the data of the first network, or another set.

        Args:
          runs: one network or more.
          reporter: shows the progress, and counts the images that cannot be read; its `max_unreadable` is set to the
            `dataset.max_unreadable` of the first network.
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
        sources = open_sources(settings.name, data_dir or settings.data_dir)
        common_classes(sources)
        splits.resolve(settings, sources)
        if settings.name != first.config.dataset.name:
            settings.validation_split = settings.validation_split or "none"  # Nobody held a part of it out.
            split = split or (next(iter(sources)) if len(sources) == 1 else None)
        split = split or settings.test_split
        if split == "none":
            raise UserError(f"there is no test split: name another with --split, of {', '.join(sources)}")
        reporter.max_unreadable = settings.max_unreadable
        selection = select(settings, sources, split, reporter)
        return cls(runs, settings.name, split, selection, reporter)

    def score(self, name: str, tta: str | None = None) -> Scored:
        """Scores a network; its outcomes number the classes as the first one does, and can be compared.

        Args:
          name: of the network.
          tta: test-time augmentation, see `views`.

        Raises:
          UserError: as `scoring.open_examples` and `scoring.score` do.
        """
        run = self.runs[name]
        examples, keep = self._examples(run), len(self.runs) > 1
        outcomes = score(run, examples, self.selection.classes, self.reporter, tta, keep)
        return Scored(_renumbered(outcomes, run.classes, self.classes), examples)

    def _examples(self, run: TrainedModel) -> InMemoryExamples | StreamedExamples:
        """Those in memory are the same for all networks, and are read once."""
        if run.config.dataset.name != self.dataset:
            return open_examples(run, self.selection, self.reporter, other_data=True)
        if run.config.dataset.feed != "resident":
            return open_examples(run, self.selection, self.reporter)
        if not self._resident:
            self._resident.append(open_examples(run, self.selection, self.reporter))
        return self._resident[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by the number that the outcomes give them."""
        return next(iter(self.runs.values())).classes


def _renumbered(outcomes: ExampleMetrics, classes: tuple[str, ...], wanted: tuple[str, ...]) -> ExampleMetrics:
    """Outcomes that number the same classes in another order."""
    if classes == wanted:
        return outcomes
    numbers = np.array([wanted.index(name) for name in classes], np.int32)
    return outcomes._replace(
        label=numbers[outcomes.label],
        prediction=numbers[outcomes.prediction],
        log_probabilities=outcomes.log_probabilities[:, np.argsort(numbers)],
    )


# --- What came out of scoring networks on the same examples: figures of each, and how they compare.


@dataclasses.dataclass(frozen=True)
class Results:
    """Of the networks of a trial, by name.

    Attributes:
      split: what the examples are.
      networks: in a single view of each picture.
      scored: the outcomes that these are of, and where to look at the pictures.
      augmented: with the test-time augmentation `tta`; empty where nobody asked.
      tta: its name, or None.
      ensemble: what they say together, in a single view; None for one network alone.
      comparisons: McNemar's test, by pairs of names.
    """

    split: str
    networks: Mapping[str, Assessment]
    scored: Mapping[str, Scored]
    augmented: Mapping[str, Assessment]
    tta: str | None
    ensemble: Assessment | None
    comparisons: Mapping[tuple[str, str], McNemar]


def judge(trial: Trial, tta: str | None = None) -> Results:
    """Scores all networks of a trial, with `tta` once more with that test-time augmentation; see `Trial.score`.

    Raises:
      UserError: as `Trial.score` does.
    """

    def assessed(outcomes) -> Assessment:
        return assess(outcomes, trial.classes, len(trial.selection))

    scored = {name: trial.score(name) for name in trial.runs}
    outcomes = {name: of.outcomes for name, of in scored.items()}
    return Results(
        split=trial.split,
        networks={name: assessed(of) for name, of in outcomes.items()},
        scored=scored,
        augmented={name: assessed(trial.score(name, tta).outcomes) for name in trial.runs} if tta else {},
        tta=tta,
        ensemble=assessed(ensemble(list(outcomes.values()))) if len(outcomes) > 1 else None,
        comparisons={
            (first, second): mcnemar(outcomes[first], outcomes[second])
            for first, second in itertools.combinations(outcomes, 2)
        },
    )


def as_json(results: Results, steps: Mapping[str, int | None]) -> dict[str, object]:
    """JSON values: of one network its figures, of several a list of these, their ensemble, and comparisons.

    `steps` has the steps that the networks had been trained for, by name.
    """
    networks = [
        {
            "name": name,
            "split": results.split,
            "workdir": None if steps[name] is None else name,
            "checkpoint_step": steps[name],
            **_values(of),
            "tta": {results.tta: _values(results.augmented[name])} if results.tta else None,
        }
        for name, of in results.networks.items()
    ]
    if results.ensemble is None:
        return networks[0]
    return {
        "split": results.split,
        "runs": networks,
        "ensemble": _values(results.ensemble),
        "comparisons": [
            {"first": first, "second": second, **vars(test)} for (first, second), test in results.comparisons.items()
        ],
    }


def _values(assessment: Assessment) -> dict[str, object]:
    """The fields of an assessment, with those of its scores among them."""
    values = dataclasses.asdict(assessment)
    return {**values.pop("scores"), **values}
