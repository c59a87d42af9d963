"""Scoring a trained network: on a split of its data set, or on another one that has classes of the same names."""

import dataclasses
from collections.abc import Mapping, Sequence

from resnet_jax.data import feeds
from resnet_jax.data.examples import Examples
from resnet_jax.data.inputs import common_classes, open_split, select
from resnet_jax.data.selection import Progress, Selection
from resnet_jax.data.sources import Source
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.unreadable import UnreadablePictures
from resnet_jax.errors import UserError
from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.evaluate import make_evaluate
from resnet_jax.evaluation.metrics import Outcomes
from resnet_jax.run import Run

CLASSES_NAMED = 10


def open_examples(
    run: Run,
    selection: Selection,
    unreadable: UnreadablePictures,
    progress: Progress | None = None,
    other_data: bool = False,
) -> Examples | StreamedExamples:
    """Examples as a trained network takes them.

    Args:
      run: the network.
      selection: the examples; the network must know their classes, by their names.
      unreadable: is told what cannot be read.
      progress: is told how far reading has come.
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
    run.preprocess.check(feeds.image_shape(selection)[-1])
    dataset = run.config.dataset
    if other_data:
        return feeds.given_examples(dataset, selection, feeds.num_workers(dataset), unreadable)
    return open_split(dataset, selection, unreadable, progress)


def score(
    run: Run,
    examples: Examples | StreamedExamples,
    classes: Sequence[str],
    progress: Progress = lambda done, total: None,
    tta: str | None = None,
    keep: bool = False,
) -> Outcomes:
    """The outcomes of a trained network: of every example that can be read exactly one.

    Args:
      run: the network.
      examples: as `open_examples` gives them.
      classes: the names of their classes; in the outcomes labels are numbered as the network does.
      progress: is told how far scoring has come.
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
    return evaluate(run.variables, examples, progress=progress)


def score_run(
    run: Run,
    sources: Mapping[str, Source],
    split: str,
    unreadable: UnreadablePictures,
    progress: Progress | None = None,
) -> dict:
    """The means of a trained network on a split, such as "test", as a dict of `metrics.Scores`.

    Raises:
      UserError: as `open_examples` and `score` do.
    """
    common_classes(sources)
    selection = select(run.config.dataset, sources, split, unreadable, progress)
    outcomes = score(run, open_examples(run, selection, unreadable, progress), selection.classes)
    return dataclasses.asdict(metrics.summarize(outcomes, len(selection)))


def _some(classes: Sequence[str]) -> str:
    more = ", ..." if len(classes) > CLASSES_NAMED else ""
    return f"the {len(classes):,} classes {', '.join(classes[:CLASSES_NAMED])}{more}"
