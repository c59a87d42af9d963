"""What a run trains and validates on, made from its settings."""

import dataclasses
import logging
from collections.abc import Collection, Mapping

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data import feed_config, splits
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.feed import EvaluationData, Feed
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.preprocess import channel_statistics
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.sources import Source
from resnet_jax.data.streaming import StreamingFeed
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter

logger = logging.getLogger(__name__)

VALIDATION = "validation"  # what a run was validated on
VALIDATION_FRACTION = 0.1  # of the training split, where no validation split is named


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The feed of the training examples, the validation examples (None: without), and the classes' names."""

    feed: Feed
    validation: EvaluationData | None
    classes: tuple[str, ...]


def open_dataset(
    config: ConfigDict,
    sources: Mapping[str, Source],
    mesh: Mesh,
    reporter: Reporter,
) -> Dataset:
    """Opens the data, and fills in what `config.dataset` leaves open: splits, feed, sizes, mean and deviation.

    Raises:
      UserError: where training, validation and test share examples or differ in their classes, for examples that cannot
        be trained on, and for too few of them.
    """
    dataset = config.dataset
    classes = common_classes(sources)
    splits.resolve(dataset, sources)
    _check_splits(dataset, sources)
    ignored = sum(len(getattr(source, "ignored", ())) for source in sources.values())
    if ignored:
        logger.info(f"Ignored: {ignored:,} files that are not images of a class, by name or place; inspect lists them.")
    train = Subset.of(sources, dataset.train_split)
    logger.info(feed_config.resolve(dataset, train, mesh))
    resident = dataset.feed == "resident"
    if resident:
        train = read_examples(train, reporter, "training examples")
    validation = None
    if dataset.validation_split == "":
        labels = train.labels if resident else train.read_labels(reporter, "training examples")
        train, validation = map(train.take, _hold_out(labels))
        validation = validation if resident else feed_config.streamed_examples(dataset, validation, reporter)
    elif dataset.validation_split != "none":
        selection = Subset.of(sources, dataset.validation_split)
        validation = open_split(dataset, selection, reporter, "validation examples")
    if dataset.mean is None:
        pictures = train.images if resident else feed_config.sample(dataset, train, reporter)
        dataset.mean, dataset.std = channel_statistics(pictures)
    if resident:
        return Dataset(ResidentFeed(train, config.batch_size, config.seed, mesh), validation, classes)
    feed = StreamingFeed(
        feed_config.loader(dataset, train, training=True),
        config.batch_size,
        config.seed,
        config.augment.random_resized_crop,
        config.num_epochs,
        feed_config.num_workers(dataset),
        mesh,
        reporter,
    )
    return Dataset(feed, validation, classes)


def select(
    dataset: ConfigDict,
    sources: Mapping[str, Source],
    split: str,
    reporter: Reporter,
) -> Subset:
    """The examples that a split names, for a run with these resolved settings.

    "validation" is what the run was validated on, be it held out of its training split, unless the data set has a split
    of that name.

    Raises:
      UserError: as `splits.select` does, and if the run has no validation split.
    """
    if split != VALIDATION or VALIDATION in sources:
        return Subset.of(sources, split)
    if dataset.validation_split == "none":
        raise UserError("there is no validation split: name another one")
    if dataset.validation_split != "":
        return Subset.of(sources, dataset.validation_split)
    train = Subset.of(sources, dataset.train_split)
    if dataset.feed == "streaming":
        return train.take(_hold_out(train.read_labels(reporter))[1])
    # Of a resident set what cannot be read is left out first.
    readable = read_examples(train, reporter)
    return train.take(readable.subset_positions[_hold_out(readable.labels)[1]])


def open_split(dataset: ConfigDict, selection: Subset, reporter: Reporter, what: str = "examples") -> EvaluationData:
    """Examples to be scored, as the resolved settings of a run say; `what` names them on the progress line."""
    if dataset.feed == "resident":
        return read_examples(selection, reporter, what)
    return feed_config.streamed_examples(dataset, selection, reporter)


def common_classes(sources: Mapping[str, Source]) -> tuple[str, ...]:
    """The names of the classes, which must be the same in all splits: labels are numbers."""
    classes = {split: tuple(source.classes) for split, source in sources.items()}
    if len(set(classes.values())) > 1:
        sizes = ", ".join(f"{len(names)} in {split}" for split, names in classes.items())
        raise UserError(f"the splits of the data set have different classes ({sizes}): give all of them the same")
    return next(iter(classes.values()))


def untrained_classes(sources: Mapping[str, Source], trained_on: Collection[str]) -> dict[str, list[str]]:
    """Classes by split of which there are examples there, but none in those `trained_on`, where labels are listed."""
    classes = common_classes(sources)
    listed = {
        name: set(np.unique(source.labels)) & set(range(len(classes)))
        for name, source in sources.items()
        if hasattr(source, "labels")
    }
    if not listed.keys() >= set(trained_on):
        return {}
    trained = set().union(*(listed[name] for name in trained_on))
    untrained = {split: sorted(found - trained) for split, found in listed.items()}
    return {split: [classes[label] for label in labels] for split, labels in untrained.items() if labels}


def _check_splits(dataset: ConfigDict, sources: Mapping[str, Source]) -> None:
    sizes = {name: len(source) for name, source in sources.items()}
    named = [dataset.train_split, dataset.validation_split, dataset.test_split]
    named = [split for split in named if split not in ("", "none")]
    for position, split in enumerate(named):
        for other in named[position + 1 :]:
            splits.check_disjoint(split, other, sizes)
    for split in named[1:]:
        if not _has_labels(Subset.of(sources, split)):
            raise UserError(f"the split {split!r} has no labels to score by: choose another, or 'none'")
    used = {name: sources[name] for split in named for name in splits.names(split)}
    for split, names in untrained_classes(used, splits.names(dataset.train_split)).items():
        raise UserError(
            f"{split} has pictures of {', '.join(names)}, and {dataset.train_split} has none: no network could learn "
            "what they are. Add some there, or remove these"
        )


def _has_labels(selection: Subset) -> bool:
    """Whether the first example has one: of some sets the labels of the test split are secret, and -1."""
    try:
        return selection[0][1] >= 0
    except Unreadable:
        return True


def _hold_out(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts the training examples into those that stay and a stratified tenth for validation: positions of both."""
    kept, held_out = splits.hold_out(labels, VALIDATION_FRACTION)
    if not len(held_out):
        raise UserError(
            f"{len(labels)} training examples are too few to hold out a tenth of each class for validation: "
            "set dataset.validation_split, or 'none' to go without"
        )
    return kept, held_out
