"""Scoring a trained network: on a split of its data set, or on another one that has classes of the same names."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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


class Scored(NamedTuple):
    """The outcomes of all examples of a selection that can be read, and where to look at their pictures.

    Labels and predictions are the network's.
    """

    outcomes: Outcomes
    examples: Examples | StreamedExamples


def score(
    run: Run,
    selection: Selection,
    unreadable: UnreadablePictures,
    progress: Progress | None = None,
    tta: str | None = None,
    keep: bool = False,
    other_data: bool = False,
) -> Scored:
    """Scores a trained network on a selection of examples, every one that can be read exactly once.

    Args:
      run: the network.
      selection: the examples; the network must know their classes, by their names.
      unreadable: is told what cannot be read.
      progress: is told how far reading has come.
      tta: test-time augmentation, see `views`.
      keep: whether the outcomes hold the probabilities of all classes.
      other_data: whether the examples are of another data set than the run's: then their pictures are brought to the
        size that the network sees, whatever they are.

    Raises:
      UserError: if the examples are of classes that the network does not know, or too many of them cannot be read.
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
    number_of = {name: number for number, name in enumerate(run.classes)}
    dataset = run.config.dataset
    if other_data:
        examples = feeds.given_examples(dataset, selection, feeds.num_workers(dataset), unreadable)
    else:
        examples = open_split(dataset, selection, unreadable, progress)
    evaluate = make_evaluate(
        run.model,
        run.preprocess,
        run.config.batch_size,
        run.mesh,
        tta=tta,
        numbers=[number_of[name] for name in selection.classes],
        keep=keep,
    )
    return Scored(evaluate(run.variables, examples), examples)


def score_run(
    run: Run,
    sources: Mapping[str, Source],
    split: str,
    unreadable: UnreadablePictures,
    progress: Progress | None = None,
) -> dict:
    """The means of a trained network on a split, such as "test", as a dict of `metrics.Scores`.

    Raises:
      UserError: as `score` does.
    """
    common_classes(sources)
    selection = select(run.config.dataset, sources, split, unreadable, progress)
    outcomes, _ = score(run, selection, unreadable, progress)
    return dataclasses.asdict(metrics.summarize(outcomes, len(selection)))


def _some(classes: Sequence[str]) -> str:
    more = ", ..." if len(classes) > CLASSES_NAMED else ""
    return f"the {len(classes):,} classes {', '.join(classes[:CLASSES_NAMED])}{more}"
