"""What came out of scoring networks on the same examples: figures of each, and how they compare."""

import dataclasses
import itertools
from collections.abc import Mapping

from resnet_jax.evaluation import comparison
from resnet_jax.evaluation.assessment import Assessment, assess
from resnet_jax.evaluation.comparison import McNemar
from resnet_jax.evaluation.trial import Counter, Scored, Trial, quiet


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


def judge(trial: Trial, counter: Counter = quiet, tta: str | None = None) -> Results:
    """Scores all networks of a trial, with `tta` once more with that test-time augmentation; see `Trial.score`.

    Raises:
      UserError: as `Trial.score` does.
    """

    def assessed(outcomes) -> Assessment:
        return assess(outcomes, trial.classes, len(trial.selection))

    scored = {name: trial.score(name, counter) for name in trial.runs}
    outcomes = {name: of.outcomes for name, of in scored.items()}
    return Results(
        split=trial.split,
        networks={name: assessed(of) for name, of in outcomes.items()},
        scored=scored,
        augmented={name: assessed(trial.score(name, counter, tta).outcomes) for name in trial.runs} if tta else {},
        tta=tta,
        ensemble=assessed(comparison.ensemble(list(outcomes.values()))) if len(outcomes) > 1 else None,
        comparisons={
            (first, second): comparison.mcnemar(outcomes[first], outcomes[second])
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
