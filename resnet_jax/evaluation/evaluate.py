"""Evaluation: every example exactly once, in batches of one shape, on all devices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax import parallel
from resnet_jax.data.examples import Examples
from resnet_jax.data.inputs import open_split
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.selection import NO_LABEL, Progress, Selection
from resnet_jax.data.sources import Source
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.unreadable import UnreadablePictures
from resnet_jax.errors import UserError
from resnet_jax.evaluation import metrics
from resnet_jax.run import Run

CLASSES_NAMED = 10

Evaluate = Callable[..., metrics.Outcomes | None]


def make_evaluate(model: nn.Module, preprocess: Preprocess, batch_size: int, mesh: Mesh) -> Evaluate:
    """A function from variables and examples to the `Outcomes` of all that can be read, in order, in host memory.

    Its third argument, if given, tells after each batch whether to stop: it returns None then.

    It compiles once and can be called again with other variables and other examples. Should the devices not share
    `batch_size` evenly, a slightly larger one is used.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    rows = parallel.local_rows(mesh, batch_size)

    def step(variables: dict, images: jax.Array, labels: jax.Array, positions: jax.Array) -> metrics.Outcomes:
        logits = model.apply(variables, preprocess(images), train=False)
        return metrics.outcomes(logits, labels, positions)

    # Replicated results: then every process can read all of them.
    step = jax.jit(step, out_shardings=parallel.replicated(mesh))

    def evaluate(
        variables: dict, examples: Examples | StreamedExamples, interrupted: Callable[[], object] = lambda: False
    ) -> metrics.Outcomes | None:
        parts, pace = [], parallel.Pace()
        for images, known in examples.batches(batch_size, rows):
            arrays = images, known.labels, known.positions.astype(np.int32)
            parts.append(step(variables, *parallel.place_rows(arrays, mesh, batch_size)))
            pace(parts[-1])
            if interrupted():
                return None
        outcomes = jax.tree.map(lambda *part: np.concatenate(part), *parallel.fetch(parts))
        given = outcomes.position[outcomes.position >= 0]
        if not np.array_equal(np.sort(given), np.arange(len(examples))):
            raise RuntimeError(f"{len(given)} examples were given instead of each of {len(examples)} once")
        scored = outcomes.label != NO_LABEL
        return jax.tree.map(lambda values: values[scored], outcomes)

    return evaluate


def score_run(
    run: Run,
    sources: Mapping[str, Source],
    split: str,
    unreadable: UnreadablePictures,
    progress: Progress | None = None,
) -> dict:
    """Scores a trained network on a split, such as "test".

    Returns:
      `loss`, `top1`, `top5`; `examples`, the number of examples scored: all of the split, each once; and `unreadable`,
      the number of those that could not be.

    Raises:
      UserError: if the sources have other classes than the run, or too many pictures cannot be read.
    """
    for source in sources.values():
        if tuple(source.classes) != run.classes:
            raise UserError(f"this network tells {_some(run.classes)} apart, but the data has {_some(source.classes)}")
    selection = Selection.of(sources, split)
    examples = open_split(run.config.dataset, selection, unreadable, progress)
    evaluate = make_evaluate(run.model, run.preprocess, run.config.batch_size, run.mesh)
    return dataclasses.asdict(metrics.summarize(evaluate(run.variables, examples), len(selection)))


def _some(classes: Sequence[str]) -> str:
    more = ", ..." if len(classes) > CLASSES_NAMED else ""
    return f"the {len(classes):,} classes {', '.join(classes[:CLASSES_NAMED])}{more}"
