"""The training and validation data of a run, opened as its settings describe."""

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data import bit_depth as bit_depths
from resnet_jax.data import class_checks, feed_config, partition, splits
from resnet_jax.data.decode import MAX_BIT_DEPTH, Unreadable
from resnet_jax.data.feed import EvaluationData, Feed
from resnet_jax.data.host_batches import check_label
from resnet_jax.data.in_memory import InMemoryExamples, read_examples
from resnet_jax.data.preprocess import channel_statistics
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.sampling import BalancedSampler, ClientSampler, RepeatingSampler, Sampler, UniformSampler
from resnet_jax.data.sources import Source, check_sources, class_names
from resnet_jax.data.streaming import StreamingFeed
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter

# Names for the examples on which a run was trained, and for those on which it was validated; see `examples_of_run`.
TRAINING = "training"
VALIDATION = "validation"
BANK_SIZE = 10_000  # examples among which nearest neighbors are searched

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The data of a run.

    Attributes:
      feed: the training examples.
      validation: the validation examples; None: no validation.
      classes: the names of the classes.
      label_sets: bool [sets, classes], the distinct combinations of labels; None if each image has one label.
      labels: int32 [n], the labels of the training examples, `NO_LABEL` for unreadable ones; None if they have not been
        read, because nothing needs them.
      bank: for pre-training, up to `BANK_SIZE` evenly spaced training examples; otherwise None.
      clients: in a federated run, the examples of each client; otherwise None.
      content_digests: a hash of the "training examples" and, if there are any, one of the "validation examples". They
        show whether the data has changed since a run was saved. Empty for data that no run is trained on.
    """

    feed: Feed
    validation: EvaluationData | None
    classes: tuple[str, ...]
    label_sets: np.ndarray | None = None
    labels: np.ndarray | None = None
    content_digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bank: EvaluationData | None = None
    clients: ClientSampler | None = None


def open_dataset(
    config: ConfigDict,
    sources: Mapping[str, Source],
    mesh: Mesh,
    reporter: Reporter,
    is_new: bool = True,
) -> Dataset:
    """Open the data of a run, and resolve `config.dataset`: fill in the settings that it leaves open.

    These settings are the splits, the feed, the image sizes, the bit depth, mean and std, and the number of clients.

    Args:
      config: the settings.
      sources: the base splits; see `splits`.
      mesh: the devices.
      reporter: shows the progress, and registers the images that cannot be read.
      is_new: whether the run is new. Only then are its classes checked (see `class_checks.check`) and its bit depth
        measured, and must `federated.clients`, if set, equal the number of client directories.

    Raises:
      UserError: if training, validation and test splits share examples, if the model cannot learn a class, if a source,
        an image or a label is invalid, if too many images cannot be read, or if there are too few examples.
    """
    dataset = config.dataset
    check_sources(sources)
    classes = common_classes(sources)
    splits.resolve(dataset, sources)
    check_splits(dataset, sources)
    if is_new and config.pretrain.method is None:
        class_checks.check(dataset, sources)
    train = Subset.from_split(sources, dataset.train_split)
    _resolve_multi_label(dataset, train)
    _resolve_clients(config.federated, train, is_new)
    if is_new:
        _resolve_bit_depth(dataset, train)
    train.bit_depth = dataset.bit_depth or MAX_BIT_DEPTH
    scored = scored_subsets(dataset, sources) if is_new else []
    logger.info(feed_config.resolve(dataset, train, mesh, scored))
    if dataset.feed == "resident":
        return _open_resident(config, sources, train, classes, mesh, reporter)
    return _open_streaming(config, sources, train, classes, mesh, reporter)


def scored_subsets(dataset: ConfigDict, sources: Mapping[str, Source]) -> list[Subset]:
    """Return the examples of the validation split and of the test split, where there are any."""
    scored = [split for purpose, split in splits.configured(dataset).items() if purpose != "training"]
    return [Subset.from_split(sources, split) for split in scored]


def _resolve_multi_label(dataset: ConfigDict, train: Subset) -> None:
    """Set `dataset.multi_label`; raise `UserError` if the settings contradict the data."""
    is_multi_label = train.label_sets is not None
    if dataset.multi_label not in (None, is_multi_label):
        raise UserError(
            f"dataset.multi_label ({dataset.multi_label}) contradicts the data, whose images have "
            f"{'any number of labels' if is_multi_label else 'one label each'}. Leave it unset."
        )
    dataset.multi_label = is_multi_label


def _resolve_clients(federated: ConfigDict, train: Subset, is_new: bool) -> None:
    """Set `federated.clients` to the number of directories if each client has one.

    Raises:
      UserError: if the dataset has no such directories, or another number of them.
    """
    if federated.partition != "directories":
        return
    directories = train.listed_directories()
    if directories is None:
        raise UserError(
            "federated.partition=directories needs a dataset with one directory per client. Use "
            "--config.dataset.name=clients:/path."
        )
    count = int(directories.max()) + 1
    if federated.clients is None:
        federated.clients = count
    elif federated.clients != count and is_new:
        raise UserError(f"there are {count} directories of clients, not {federated.clients}. Unset federated.clients.")
    elif federated.clients < count:
        raise UserError(
            f"the directories of clients have changed since this run was saved (stored {federated.clients}, now "
            f"{count}). Restore them, or choose another --workdir."
        )


def _resolve_bit_depth(dataset: ConfigDict, train: Subset) -> None:
    """Set `dataset.bit_depth` if it is unset and 16-bit images use fewer than 16 bits.

    A resumed run keeps it unset, so that runs of older versions see the same pixels as before.
    """
    bit_depth = dataset.bit_depth or bit_depths.measure(train)
    if bit_depth < MAX_BIT_DEPTH:
        dataset.bit_depth = bit_depth
        logger.info(bit_depths.describe(bit_depth))


def _open_resident(
    config: ConfigDict,
    sources: Mapping[str, Source],
    subset: Subset,
    classes: tuple[str, ...],
    mesh: Mesh,
    reporter: Reporter,
) -> Dataset:
    dataset = config.dataset
    train = read_examples(subset, reporter, "training examples")
    validation = _open_validation(dataset, sources, reporter)
    if splits.is_held_out(dataset):
        kept, held_out = splits.hold_out_validation(dataset, train.labels)
        train, validation = train.take(kept), train.take(held_out)
    if dataset.mean is None:
        dataset.mean, dataset.std = channel_statistics(train.images)
    directories = subset.listed_directories()
    if directories is not None:
        directories = directories[train.subset_positions]
    sampler = _make_sampler(config, len(train), train.labels, directories)
    feed = ResidentFeed(train, config.batch_size, sampler, mesh)
    bank = train.take(_bank_positions(len(train))) if config.pretrain.method is not None else None
    return Dataset(
        feed=feed,
        validation=validation,
        classes=classes,
        label_sets=subset.label_sets,
        labels=train.labels,
        content_digests=_content_digests(train, validation),
        bank=bank,
        clients=sampler if isinstance(sampler, ClientSampler) else None,
    )


def _open_streaming(
    config: ConfigDict,
    sources: Mapping[str, Source],
    train: Subset,
    classes: tuple[str, ...],
    mesh: Mesh,
    reporter: Reporter,
) -> Dataset:
    dataset = config.dataset
    labels = None
    if splits.is_held_out(dataset) or _needs_labels(config):
        labels = train.read_labels(reporter, "training examples")
    validation = _open_validation(dataset, sources, reporter)
    if labels is not None and splits.is_held_out(dataset):
        kept, held_out = splits.hold_out_validation(dataset, labels)
        validation = feed_config.streamed_examples(dataset, train.take(held_out), reporter)
        train, labels = train.take(kept), labels[kept]
    if dataset.mean is None:
        dataset.mean, dataset.std = channel_statistics(feed_config.sample_images(dataset, train, reporter))
    sampler = _make_sampler(config, len(train), labels, train.listed_directories())
    feed = StreamingFeed(
        feed_config.example_loader(dataset, train, training=True),
        config.batch_size,
        sampler,
        config.augment.random_resized_crop if config.pretrain.method is None else (),  # Two crops are made on devices.
        config.num_epochs * (config.federated.clients or 1),
        # Each visit of a client restarts the workers, and threads start at once.
        0 if isinstance(sampler, ClientSampler) else feed_config.num_workers(dataset),
        mesh,
        reporter,
    )
    bank = None
    if config.pretrain.method is not None:
        bank = feed_config.streamed_examples(dataset, train.take(_bank_positions(len(train))), reporter)
    return Dataset(
        feed=feed,
        validation=validation,
        classes=classes,
        label_sets=train.label_sets,
        labels=labels,
        content_digests=_content_digests(train, validation),
        bank=bank,
        clients=sampler if isinstance(sampler, ClientSampler) else None,
    )


def _bank_positions(size: int) -> np.ndarray:
    """Return the positions of the training examples among which nearest neighbors are searched, evenly spaced."""
    count = min(size, BANK_SIZE)
    return np.arange(count) * size // count


def _needs_labels(config: ConfigDict) -> bool:
    """Return whether the labels of the training examples must be known before training."""
    is_federated = config.federated.partition is not None
    return is_federated or config.dataset.sampler == "balanced" or config.loss.class_weights == "balanced"


def _make_sampler(config: ConfigDict, size: int, labels: np.ndarray | None, directories: np.ndarray | None) -> Sampler:
    """Return the sampler of a federated run, or the one that `dataset.sampler` names, for `size` training examples."""
    federated = config.federated
    if federated.partition is not None:
        assert labels is not None
        parts = partition.divide(federated, config.seed, labels, directories)
        return ClientSampler(
            config.seed, parts, labels, config.batch_size, federated.local_epochs, federated.local_steps
        )
    if config.dataset.sampler == "uniform":
        sampler: Sampler = UniformSampler(config.seed, size)
    else:
        assert labels is not None
        sampler = BalancedSampler(config.seed, labels)
    return RepeatingSampler(sampler, config.augment.repeats) if config.augment.repeats > 1 else sampler


def _open_validation(dataset: ConfigDict, sources: Mapping[str, Source], reporter: Reporter) -> EvaluationData | None:
    """Open the validation split that the settings name; return None if they name none."""
    if dataset.validation_split == splits.NO_SPLIT or splits.is_held_out(dataset):
        return None
    subset = Subset.from_split(sources, dataset.validation_split)
    return open_evaluation_data(dataset, subset, reporter, "validation examples")


def _content_digests(train: InMemoryExamples | Subset, validation: EvaluationData | None) -> dict[str, str]:
    digests = {"training examples": train.content_digest()}
    if validation is not None:
        digests["validation examples"] = validation.content_digest()
    return digests


def open_evaluation_data(
    dataset: ConfigDict, subset: Subset, reporter: Reporter, what: str = "examples"
) -> EvaluationData:
    """Open examples to be scored: in memory if the feed of the run is resident, otherwise streamed.

    Args:
      dataset: the resolved `dataset` settings of the run.
      subset: the examples. Its `bit_depth` is set, which later decoding of its images uses.
      reporter: shows the progress, and registers the images that cannot be read.
      what: names the examples on the progress line.
    """
    subset.bit_depth = dataset.bit_depth or MAX_BIT_DEPTH
    if dataset.feed == "resident":
        return read_examples(subset, reporter, what)
    return feed_config.streamed_examples(dataset, subset, reporter)


def select_split(
    dataset: ConfigDict,
    sources: Mapping[str, Source],
    split: str,
    reporter: Reporter,
) -> Subset:
    """Return the examples that a split selects, for a run with these resolved `dataset` settings.

    If the dataset has no split named "validation", this name stands for the examples on which the run was validated;
    see `examples_of_run`.

    Raises:
      UserError: as `splits.select` does, or if the run has no validation split.
    """
    if split != VALIDATION or VALIDATION in sources:
        return Subset.from_split(sources, split)
    return examples_of_run(dataset, sources, VALIDATION, reporter)


def examples_of_run(
    dataset: ConfigDict,
    sources: Mapping[str, Source],
    purpose: str,
    reporter: Reporter,
) -> Subset:
    """Return the examples on which a run was trained or validated, even if the latter were held out.

    Args:
      dataset: the resolved `dataset` settings of the run.
      sources: the base splits.
      purpose: "training" or "validation".
      reporter: shows the progress, and registers the images that cannot be read.

    Raises:
      UserError: if the run has no validation split.
    """
    if dataset.validation_split == splits.NO_SPLIT and purpose == VALIDATION:
        raise UserError("the run has no validation split. Choose another split.")
    if not splits.is_held_out(dataset):
        return Subset.from_split(sources, dataset.validation_split if purpose == VALIDATION else dataset.train_split)
    train = Subset.from_split(sources, dataset.train_split)
    if dataset.feed == "streaming":
        kept, held_out = splits.hold_out_validation(dataset, train.read_labels(reporter))
    else:  # A run with a resident feed leaves out unreadable images first.
        readable = read_examples(train, reporter)
        parts = splits.hold_out_validation(dataset, readable.labels)
        kept, held_out = (readable.subset_positions[part] for part in parts)
    return train.take(held_out if purpose == VALIDATION else kept)


# ---------------------------------------------------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------------------------------------------------


def common_classes(sources: Mapping[str, Source]) -> tuple[str, ...]:
    """Return the list of classes, which must be the same for all splits, because labels are indices into it.

    Raises:
      UserError: if the splits have different classes.
    """
    classes = {split: class_names(source.classes) for split, source in sources.items()}
    if len(set(classes.values())) > 1:
        sizes = ", ".join(f"{len(names)} in {split}" for split, names in classes.items())
        raise UserError(
            f"the splits of the dataset have different classes ({sizes}). Give all splits the same classes."
        )
    return next(iter(classes.values()))


def check_splits(dataset: ConfigDict, sources: Mapping[str, Source]) -> None:
    """Raise `UserError` if splits overlap or lack labels for scoring."""
    configured = splits.configured(dataset)
    overlaps = splits.overlaps(configured.values(), {name: len(source) for name, source in sources.items()})
    if overlaps:
        raise UserError(overlaps[0])
    for purpose, split in configured.items():
        if purpose == "training":
            continue
        subset = Subset.from_split(sources, split)
        if not _has_labels(subset):
            raise UserError(f"the split {split!r} has no labels to score against. Choose another split, or 'none'.")
        labels = subset.listed_labels()
        if labels is not None:
            for position in np.flatnonzero((labels < 0) | (labels >= subset.num_labels))[:1]:
                check_label(int(labels[position]), subset.num_labels, subset.name(int(position)))


def _has_labels(subset: Subset) -> bool:
    """Return whether the first example has a label. Some datasets have test splits in which all labels are -1."""
    try:
        return subset[0][1] >= 0
    except Unreadable:  # The label is not known.
        return True
