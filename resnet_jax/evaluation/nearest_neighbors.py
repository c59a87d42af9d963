"""Features of examples, and validation of features by nearest neighbors."""

import collections
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data.feed import EvaluationData
from resnet_jax.data.host_batches import NO_POSITION
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.subset import NO_LABEL
from resnet_jax.evaluation.metrics import check_any_readable
from resnet_jax.evaluation.validation import Validate, ValidationResult
from resnet_jax.runtime import parallel
from resnet_jax.selfsupervised.embeddings import NEIGHBORS, nearest_neighbor_classes

QUERIES_AT_ONCE = 1000


class LabeledFeatures(NamedTuple):
    """Features of the n examples that can be read.

    Attributes:
      values: float32 [n, width].
      labels: int32 [n].
      positions: int32 [n], the position of each example in the evaluation data.
    """

    values: np.ndarray
    labels: np.ndarray
    positions: np.ndarray

    def take(self, rows: np.ndarray) -> "LabeledFeatures":
        """Return the features in these rows."""
        return LabeledFeatures(self.values[rows], self.labels[rows], self.positions[rows])


class ComputeFeatures(Protocol):
    """Function that computes features; see `make_compute_features`."""

    def __call__(
        self, variables: dict, examples: EvaluationData, interrupted: Callable[[], object] = lambda: False
    ) -> LabeledFeatures | None:
        """Return the features of the examples, or None if `interrupted`, called after each batch, returns true."""


def make_compute_features(
    apply: Callable[[dict, jax.Array], jax.Array], batch_size: int, mesh: Mesh
) -> ComputeFeatures:
    """Return a function that computes the features of examples.

    Args:
      apply: maps variables and uint8 images [batch, height, width, channels] to features, float32 [batch, width].
      batch_size: images per batch over all devices; it is rounded up to a multiple of their number.
      mesh: the devices.
    """
    batch_size = math.ceil(batch_size / mesh.size) * mesh.size

    def compute_batch(
        variables: dict, images: jax.Array, labels: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, ...]:
        return apply(variables, images), labels, positions

    compiled = parallel.jit(compute_batch, mesh)  # All results are replicated, so that every process can read them.
    local_rows = parallel.local_rows(mesh, batch_size)

    def compute_features(
        variables: dict, examples: EvaluationData, interrupted: Callable[[], object] = lambda: False
    ) -> LabeledFeatures | None:
        pace = parallel.pace_of_independent_calls(mesh)
        on_devices: collections.deque[tuple[jax.Array, ...]] = collections.deque()
        batches = []
        for images, info in examples.batches(batch_size, local_rows):
            rows = (images, info.labels, info.positions.astype(np.int32))
            on_devices.append(compiled(variables, *parallel.place_rows(rows, mesh, batch_size)))
            pace(on_devices[-1])
            if len(on_devices) > parallel.CALLS_AHEAD:  # The features of all images may not fit on the devices.
                batches.append(parallel.fetch(on_devices.popleft()))
            if interrupted():
                return None
        batches += parallel.fetch(list(on_devices))
        features = LabeledFeatures(*map(np.concatenate, zip(*batches, strict=True)))
        return features.take(np.flatnonzero((features.labels != NO_LABEL) & (features.positions != NO_POSITION)))

    return compute_features


def make_validate(
    model: nn.Module,
    preprocess: Preprocess,
    batch_size: int,
    mesh: Mesh,
    bank: EvaluationData,
    examples: EvaluationData,
) -> Validate:
    """Return a function that classifies the validation examples by their nearest neighbors in the bank.

    Args:
      model: a `pretraining_model.PretrainingResNet`.
      preprocess: the preprocessing of its images.
      batch_size: images per batch over all devices.
      mesh: the devices.
      bank: training examples.
      examples: the validation examples.
    """

    def apply(variables: dict, images: jax.Array) -> jax.Array:
        embeddings: Any = model.apply(variables, preprocess(images), train=False)
        return embeddings.features

    compute_features = make_compute_features(apply, batch_size, mesh)

    def validate(variables: dict, interrupted: Callable[[], object]) -> ValidationResult | None:
        bank_features = compute_features(variables, bank, interrupted)
        queries = None if bank_features is None else compute_features(variables, examples, interrupted)
        if bank_features is None or queries is None:
            return None
        for features, data in ((bank_features, bank), (queries, examples)):
            check_any_readable(len(features.labels), len(data))
        correct = classify(bank_features, queries) == queries.labels
        metrics = {
            "knn": float(correct.mean()),
            "examples": len(correct),
            "unreadable": len(examples) - len(correct),
        }
        return ValidationResult(metrics, [])

    return validate


def classify(bank: LabeledFeatures, queries: LabeledFeatures) -> np.ndarray:
    """Return the classes of m queries by their nearest neighbors in the bank: int32 [m].

    See `embeddings.nearest_neighbor_classes`.
    """
    num_classes, neighbors = int(bank.labels.max()) + 1, min(NEIGHBORS, len(bank.labels))
    vote = jax.jit(nearest_neighbor_classes, static_argnums=(3, 4))
    bank_values, bank_labels = jax.device_put((bank.values, bank.labels))
    parts = [
        vote(queries.values[start : start + QUERIES_AT_ONCE], bank_values, bank_labels, num_classes, neighbors)
        for start in range(0, len(queries.labels), QUERIES_AT_ONCE)
    ]
    return np.concatenate(parts)
