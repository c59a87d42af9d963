"""Evaluation: every example exactly once, in batches of one shape, on all devices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data import feed_config
from resnet_jax.data.dataset import common_classes, open_split, select
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import Source
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.metrics import ExampleMetrics
from resnet_jax.evaluation.tta import make_see
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel

Evaluate = Callable[..., metrics.ExampleMetrics | None]


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
    """A function from variables and examples to the `ExampleMetrics` of all that can be read, in order, in host memory.

    Its third argument, if given, tells after each batch whether to stop: it returns None then. Its fourth, a
    `Reporter`, shows how many examples have been given to the devices.

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
    rows, see = parallel.local_rows(mesh, batch_size), make_see(model, tta)

    def step(variables: dict, images: jax.Array, labels: jax.Array, positions: jax.Array) -> metrics.ExampleMetrics:
        return metrics.outcomes(see(variables, preprocess(images)), labels, positions, keep)

    # Replicated results: then every process can read all of them.
    step = parallel.jit(step, mesh)

    def evaluate(
        variables: dict,
        examples: InMemoryExamples | StreamedExamples,
        interrupted: Callable[[], object] = lambda: False,
        reporter: Reporter | None = None,
    ) -> metrics.ExampleMetrics | None:
        show = reporter.counter("scoring examples") if reporter else None
        parts, pace = [], parallel.Pace()
        for images, known in examples.batches(batch_size, rows):
            labels = known.labels
            if numbers is not None:
                labels = np.where(labels == NO_LABEL, NO_LABEL, np.asarray(numbers, np.int32)[labels])
            arrays = images, labels, known.positions.astype(np.int32)
            parts.append(step(variables, *parallel.place_rows(arrays, mesh, batch_size)))
            pace(parts[-1])
            if show:
                show(min(len(parts) * batch_size, len(examples)), len(examples))
            if interrupted():
                return None
        outcomes = jax.tree.map(lambda *part: np.concatenate(part), *parallel.fetch(parts))
        given = outcomes.position[outcomes.position >= 0]
        if not np.array_equal(np.sort(given), np.arange(len(examples))):
            raise RuntimeError(f"{len(given)} examples were given instead of each of {len(examples)} once")
        scored = outcomes.label != NO_LABEL
        return jax.tree.map(lambda values: values[scored], outcomes)

    return evaluate


# --- Scoring a trained network: on a split of its data set, or on another one that has classes of the same names.


CLASSES_NAMED = 10


def open_examples(
    run: TrainedModel,
    selection: Subset,
    reporter: Reporter,
    other_data: bool = False,
) -> InMemoryExamples | StreamedExamples:
    """Examples as a trained network takes them.

    Args:
      run: the network.
      selection: the examples; the network must know their classes, by their names.
      reporter: shows the progress of reading, and registers the images that cannot be read.
      other_data: whether they are of another data set than the run's: then their pictures are brought to the size that
        the network sees, whatever they are.

    Raises:
      UserError: for examples of classes that the network does not know, or with other channels than it takes.
    """
    unknown = set(selection.classes) - set(run.classes)
    if unknown:
        raise UserError(
            f"this network tells {_some(run.classes)} apart, but the data has {_some(selection.classes)}, "
            f"of which it does not know {', '.join(sorted(unknown)[:CLASSES_NAMED])}: name other data, or another run"
        )
    if selection.channels > len(run.preprocess.mean):
        selection = selection.in_grey()
    run.preprocess.check(feed_config.image_shape(selection)[-1])
    dataset = run.config.dataset
    if other_data:
        return feed_config.given_examples(dataset, selection, feed_config.num_workers(dataset), reporter)
    return open_split(dataset, selection, reporter)


def score(
    run: TrainedModel,
    examples: InMemoryExamples | StreamedExamples,
    classes: Sequence[str],
    reporter: Reporter,
    tta: str | None = None,
    keep: bool = False,
) -> ExampleMetrics:
    """The outcomes of a trained network: of every example that can be read exactly one.

    Args:
      run: the network.
      examples: as `open_examples` gives them.
      classes: the names of their classes; in the outcomes labels are numbered as the network does.
      reporter: shows the progress of scoring.
      tta: test-time augmentation, see `views`.
      keep: whether the outcomes hold the probabilities of all classes.

    Raises:
      UserError: if too many of the examples cannot be read.
    """
    number_of = {name: number for number, name in enumerate(run.classes)}
    evaluate = make_evaluate(
        run.model,
        run.preprocess,
        run.config.batch_size,
        run.mesh,
        tta=tta,
        numbers=[number_of[name] for name in classes],
        keep=keep,
    )
    return evaluate(run.variables, examples, reporter=reporter)


def score_run(
    run: TrainedModel,
    sources: Mapping[str, Source],
    split: str,
    reporter: Reporter,
) -> dict:
    """The means of a trained network on a split, such as "test", as a dict of `metrics.Scores`.

    Raises:
      UserError: as `open_examples` and `score` do.
    """
    common_classes(sources)
    selection = select(run.config.dataset, sources, split, reporter)
    outcomes = score(run, open_examples(run, selection, reporter), selection.classes, reporter)
    return dataclasses.asdict(metrics.summarize(outcomes, len(selection)))


def _some(classes: Sequence[str]) -> str:
    more = ", ..." if len(classes) > CLASSES_NAMED else ""
    return f"the {len(classes):,} classes {', '.join(classes[:CLASSES_NAMED])}{more}"
