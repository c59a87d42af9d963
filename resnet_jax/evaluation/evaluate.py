"""Evaluation: every example exactly once, in batches of one shape, on all devices."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax import parallel
from resnet_jax.data.examples import Examples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.selection import NO_LABEL, Progress
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.evaluation import metrics, views

Evaluate = Callable[..., metrics.Outcomes | None]


def make_evaluate(
    model: nn.Module,
    preprocess: Preprocess,
    batch_size: int,
    mesh: Mesh,
    *,
    tta: str | None = None,
    numbers: Sequence[int] | None = None,
    keep: bool = False,
) -> Evaluate:
    """A function from variables and examples to the `Outcomes` of all that can be read, in order, in host memory.

    Its third argument, if given, tells after each batch whether to stop: it returns None then. Its fourth is told how
    many examples have been given to the devices, and how many there are.

    It compiles once and can be called again with other variables and other examples. Should the devices not share
    `batch_size` evenly, a slightly larger one is used.

    Args:
      model, preprocess: the network, and what its pictures go through.
      batch_size: examples at a time.
      mesh: the devices.
      tta: test-time augmentation, see `views`.
      numbers: what the network calls the classes, by the examples' labels; unset: the same.
      keep: whether the outcomes hold the probabilities of all classes.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    rows, see = parallel.local_rows(mesh, batch_size), views.make_see(model, tta)

    def step(variables: dict, images: jax.Array, labels: jax.Array, positions: jax.Array) -> metrics.Outcomes:
        return metrics.outcomes(see(variables, preprocess(images)), labels, positions, keep)

    # Replicated results: then every process can read all of them.
    step = parallel.jit(step, mesh)

    def evaluate(
        variables: dict,
        examples: Examples | StreamedExamples,
        interrupted: Callable[[], object] = lambda: False,
        progress: Progress = lambda done, total: None,
    ) -> metrics.Outcomes | None:
        parts, pace = [], parallel.Pace()
        for images, known in examples.batches(batch_size, rows):
            labels = known.labels
            if numbers is not None:
                labels = np.where(labels == NO_LABEL, NO_LABEL, np.asarray(numbers, np.int32)[labels])
            arrays = images, labels, known.positions.astype(np.int32)
            parts.append(step(variables, *parallel.place_rows(arrays, mesh, batch_size)))
            pace(parts[-1])
            progress(min(len(parts) * batch_size, len(examples)), len(examples))
            if interrupted():
                return None
        outcomes = jax.tree.map(lambda *part: np.concatenate(part), *parallel.fetch(parts))
        given = outcomes.position[outcomes.position >= 0]
        if not np.array_equal(np.sort(given), np.arange(len(examples))):
            raise RuntimeError(f"{len(given)} examples were given instead of each of {len(examples)} once")
        scored = outcomes.label != NO_LABEL
        return jax.tree.map(lambda values: values[scored], outcomes)

    return evaluate
