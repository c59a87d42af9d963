"""Evaluation: every example exactly once, in batches of one shape, on all devices."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax import parallel
from resnet_jax.data.examples import Examples, Progress, read_split
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import Source
from resnet_jax.errors import UserError
from resnet_jax.evaluation import metrics
from resnet_jax.run import Run

Evaluate = Callable[[dict, Examples], metrics.Outcomes]


def make_evaluate(model: nn.Module, preprocess: Preprocess, batch_size: int, mesh: Mesh) -> Evaluate:
    """A function from variables and examples to the `Outcomes` of each example, in order, in host memory.

    It compiles once and can be called again with other variables and other examples. Should the devices not share
    `batch_size` evenly, a slightly larger one is used.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size

    def step(variables: dict, images: jax.Array, labels: jax.Array) -> metrics.Outcomes:
        logits = model.apply(variables, preprocess(images), train=False)
        return metrics.outcomes(logits, labels)

    # Replicated results: then every process can read all of them.
    step = jax.jit(step, out_shardings=parallel.replicated(mesh))

    def evaluate(variables: dict, examples: Examples) -> metrics.Outcomes:
        parts = []
        for batch in padded_batches(examples, batch_size):
            parts.append(step(variables, *parallel.place(batch, parallel.batch_sharded(mesh))))
        return jax.tree.map(lambda *part: np.concatenate(part)[: len(examples)], *parallel.fetch(parts))

    return evaluate


def padded_batches(examples: Examples, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every example once, in order, as (images, labels) of `batch_size`; the last is filled up with black pictures.

    What came of the filling lies beyond `len(examples)`, to be dropped.
    """
    for start in range(0, len(examples), batch_size):
        part = examples.take(np.arange(start, min(start + batch_size, len(examples))))
        missing = batch_size - len(part)
        yield np.pad(part.images, [(0, missing), (0, 0), (0, 0), (0, 0)]), np.pad(part.labels, [(0, missing)])


def score_run(run: Run, sources: Mapping[str, Source], split: str, progress: Progress | None = None) -> dict:
    """Scores a trained network on a split, such as "test".

    Returns:
      `loss`, `top1`, `top5` and `examples`, the number of examples scored: all of the split, each once.

    Raises:
      UserError: if the sources have other classes than the run.
    """
    for source in sources.values():
        if tuple(source.classes) != run.classes:
            raise UserError(f"this network tells {run.classes} apart, but the data has the classes {source.classes}")
    examples = read_split(sources, split, progress)
    evaluate = make_evaluate(run.model, run.preprocess, run.config.batch_size, run.mesh)
    return dataclasses.asdict(metrics.summarize(evaluate(run.variables, examples), examples.labels))
