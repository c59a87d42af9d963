"""Faithfulness of the maps of each method, measured on many images; see `attribution.faithfulness`."""

import dataclasses
import time

import jax
import numpy as np

from resnet_jax.attribution import faithfulness
from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.attribution.methods import METHODS, attribute
from resnet_jax.inference.explain import Explainer
from resnet_jax.terminal import table
from resnet_jax.trained_model import Attributions

RANDOM = "random"  # the name of the maps without information
RANDOM_MAPS = 5  # such maps per image
SEED = 0  # of the random parameters
HARDLY_CHANGES = 0.9  # rank correlation from which maps count as independent of the head
NORMAL_QUANTILE = 1.96  # for 95 % confidence intervals


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over images and half the width of its 95 % confidence interval; None where there are too few images."""

    mean: float | None
    margin: float | None


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """Measures of the maps of one method.

    Attributes:
      deletion: area under the target's probability while the most important patches are blurred first. Low is good.
      insertion: the same while they are revealed first. High is good.
      random_head: rank correlation with the maps of the model with a random head; None for random maps.
      random_model: the same if all parameters are random.
      seconds_per_image: time to compute a map, after compilation; None for random maps.
    """

    deletion: Mean
    insertion: Mean
    random_head: float | None
    random_model: float | None
    seconds_per_image: float | None


class FaithfulnessMeter:
    """Measures the faithfulness of the maps of an explainer, batch by batch."""

    def __init__(self, explainer: Explainer):
        model, variables = explainer.trained.attribution_model, explainer.trained.variables
        self._model = model
        self._randomized = (
            model.with_variables(faithfulness.with_random_head(variables, SEED)),
            model.with_variables(faithfulness.with_random_parameters(variables, SEED)),
        )
        self._methods = explainer.methods
        self._stage = explainer.stage
        self._areas: dict[str, list[faithfulness.Areas]] = {name: [] for name in (*self._methods, RANDOM)}
        self._correlations: dict[str, list[np.ndarray]] = {name: [] for name in self._methods}
        self._seconds: dict[str, list[float]] = {name: [] for name in self._methods}

    def add(self, batch: Attributions) -> None:
        """Measure the maps of a batch. Images that cannot be read are left out."""
        readable = np.array([row for row in range(batch.num_images) if row not in batch.problems], int)
        for name in self._methods:
            maps = batch.maps[name]
            self._areas[name].append(self._measure_areas(batch, maps, readable))
            started = time.perf_counter()  # All programs have been compiled for this shape.
            jax.block_until_ready(self._attribute(self._model, name, batch))
            self._seconds[name].append((time.perf_counter() - started) / len(batch.images))
            self._correlations[name].append(
                np.stack(
                    [
                        faithfulness.rank_correlations(maps, np.asarray(self._attribute(model, name, batch)))[readable]
                        for model in self._randomized
                    ]
                )
            )
        first_seed = RANDOM_MAPS * len(self._areas[RANDOM])
        random_areas = [
            self._measure_areas(batch, faithfulness.random_maps(first_seed + number, batch.images.shape[:3]), readable)
            for number in range(RANDOM_MAPS)
        ]
        self._areas[RANDOM].append(faithfulness.Areas(*np.mean(random_areas, axis=0)))

    def result(self) -> dict[str, Faithfulness]:
        """Return the means over all images, by method, with `RANDOM` last."""
        measured = {}
        for name, batches in self._areas.items():
            deletion, insertion = (_mean(np.concatenate(areas)) for areas in zip(*batches, strict=True))
            if name == RANDOM:
                measured[name] = Faithfulness(deletion, insertion, None, None, None)
                continue
            head, model = (_mean(values).mean for values in np.concatenate(self._correlations[name], axis=1))
            measured[name] = Faithfulness(deletion, insertion, head, model, float(np.median(self._seconds[name])))
        return measured

    def _attribute(self, model: AttributionModel, name: str, batch: Attributions) -> jax.Array:
        return attribute(model, name, batch.images, batch.targets, self._stage)

    def _measure_areas(self, batch: Attributions, maps: np.ndarray, readable: np.ndarray) -> faithfulness.Areas:
        areas = faithfulness.deletion_and_insertion(self._model, batch.images, batch.targets, maps)
        return faithfulness.Areas(*(values[readable] for values in areas))


def format_table(measured: dict[str, Faithfulness]) -> str:
    """Format the measures as a table, followed by a warning for each method that ignores the head."""
    rows = [
        (
            METHODS[name].title if name in METHODS else "Random map",
            _with_margin(measures.deletion),
            _with_margin(measures.insertion),
            _optional(measures.random_head, "z.2f"),
            _optional(measures.random_model, "z.2f"),
            _optional(measures.seconds_per_image, ".4f"),
        )
        for name, measures in measured.items()
    ]
    header = (
        "method",
        "deletion (low is good)",
        "insertion (high is good)",
        "random head",
        "random model",
        "s per image",
    )
    warnings = [
        f"{METHODS[name].title} hardly changes if the head is random (rank correlation {measures.random_head:.2f}), so "
        "its maps do not show what the model has learned about the class, however good its deletion and insertion are."
        for name, measures in measured.items()
        if measures.random_head is not None and measures.random_head >= HARDLY_CHANGES
    ]
    return "\n".join([table(rows, header), *warnings])


def _mean(values: np.ndarray) -> Mean:
    """Return the mean over images with its 95 % confidence interval (normal approximation), leaving out NaNs."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Mean(None, None)
    margin = NORMAL_QUANTILE * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
    return Mean(float(np.mean(values)), margin)


def _with_margin(mean: Mean) -> str:
    return f"{_optional(mean.mean, '.3f')} ± {_optional(mean.margin, '.3f')}"


def _optional(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
