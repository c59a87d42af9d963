"""Datasets without their images: shapes, counts and class names, which are enough to compile a train step."""

import copy
import logging
from typing import NoReturn

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data import feed_config, resident, splits, streaming, tfds
from resnet_jax.data.dataset import Dataset, common_classes, scored_subsets
from resnet_jax.data.feed import Batch, Inputs, check_batch_size
from resnet_jax.data.sources import is_on_this_machine, open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel

logger = logging.getLogger(__name__)


class AbstractFeed:
    """A feed without data; implements the members of `feed.Feed` that compilation needs.

    Args:
      image_shape: (height, width, channels) of the images.
      size: number of training examples.
      batch_size: examples per step, over all devices.
      mesh: the devices, which need not exist.
      is_resident: whether the dataset is kept on the devices; otherwise batches are streamed there.
      crops_on_host: see `feed.Feed`.
    """

    max_prefetched = 0

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        size: int,
        batch_size: int,
        mesh: Mesh,
        is_resident: bool = False,
        crops_on_host: bool = False,
    ):
        check_batch_size(batch_size, size)
        self.image_shape, self.size, self.steps_per_epoch = image_shape, size, size // batch_size
        self.supports_several_steps, self.crops_on_host = is_resident, crops_on_host
        self._batch_size, self._mesh, self._is_resident = batch_size, mesh, is_resident

    def on_device(self, device: jax.Device) -> "AbstractFeed":
        """Return the same feed for a single device."""
        feed = copy.copy(self)
        feed._mesh = parallel.make_mesh([device])
        return feed

    def abstract_inputs(self) -> Inputs:
        """Return the shapes, dtypes and shardings of the inputs of a step."""
        if self._is_resident:
            return resident.abstract_inputs(
                self.size, self.steps_per_epoch, self.image_shape, self._batch_size, self._mesh
            )
        return streaming.abstract_inputs(self.image_shape, self._batch_size, self._mesh)

    def streamed_inputs(self) -> Inputs:
        """Return the shapes, dtypes and shardings of the arrays that would be copied to the devices at each step."""
        return () if self._is_resident else self.abstract_inputs()

    def take(self, inputs: Inputs, step: jax.Array) -> Batch:
        """Return the batch of `step`, under `jax.jit`."""
        if self._is_resident:
            return resident.take_batch(inputs, step, self.image_shape, self._mesh)
        return inputs

    def inputs(self, step: int) -> NoReturn:
        """Raise `NotImplementedError`: there is no data."""
        raise NotImplementedError("an abstract feed has no data")

    def positions(self, step: int) -> NoReturn:
        """Raise `NotImplementedError`: there is no data."""
        raise NotImplementedError("an abstract feed has no data")

    def close(self) -> None:
        """Do nothing: there are no workers."""


def describe_abstract_dataset(config: ConfigDict, mesh: Mesh) -> Dataset:
    """Return a dataset with an abstract feed and without validation examples. Download nothing.

    Fills in those settings of `config.dataset` on which shapes depend. Unset mean and std become 0.5, because their
    values affect neither the shapes nor the cost of the compiled program.

    If the dataset is on this machine, a few images are read for their size. For a TFDS dataset that has not been
    prepared, TFDS's metadata gives everything except the number of examples. Such a dataset is treated as streamed,
    because a streaming program does not depend on that number.

    Raises:
      UserError: as `open_sources` does, and if `dataset.feed` is "resident" but the dataset has not been prepared.
    """
    dataset = config.dataset
    if is_on_this_machine(dataset.name, dataset.data_dir):
        image_shape, size, classes, label_sets = _describe_available(dataset, mesh)
    else:
        image_shape, classes = _describe_unprepared(dataset)
        size, label_sets = config.batch_size, None  # The size is unknown, and a streaming program does not need it.
    if config.pretrain.method is not None:
        label_sets = None
    dataset.multi_label = label_sets is not None
    if dataset.mean is None:
        dataset.mean = dataset.std = (0.5,) * image_shape[-1]
    is_resident = dataset.feed == "resident"
    # In pre-training, each image is cropped twice, on the devices.
    crops_on_host = not is_resident and dataset.image_size is not None and config.pretrain.method is None
    feed = AbstractFeed(image_shape, size, config.batch_size, mesh, is_resident, crops_on_host)
    return Dataset(feed, None, classes, label_sets)


def _describe_available(
    dataset: ConfigDict, mesh: Mesh
) -> tuple[tuple[int, int, int], int, tuple[str, ...], np.ndarray | None]:
    """Return image shape, number of training examples, classes and `label_sets` of a dataset on this machine."""
    sources = open_sources(dataset.name, dataset.data_dir)
    splits.resolve(dataset, sources)
    train = Subset.from_split(sources, dataset.train_split)
    logger.info(feed_config.resolve(dataset, train, mesh, scored_subsets(dataset, sources)))
    size = len(train) - splits.held_out_size(dataset, len(train))
    return feed_config.training_image_shape(dataset, train), size, common_classes(sources), train.label_sets


def _describe_unprepared(dataset: ConfigDict) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Return image shape and classes of a TFDS dataset that has not been prepared."""
    (height, width, channels), classes = tfds.describe_tfds(dataset.name, dataset.data_dir)
    if dataset.feed == "resident":
        raise UserError(
            f"dataset {dataset.name!r} has not been prepared, so its size in memory is unknown. "
            "Leave dataset.feed unset, or train once to prepare the dataset."
        )
    unprepared = f"because {dataset.name} has not been prepared and only its metadata is known"
    logger.info(f"Feed: streaming, {'as configured' if dataset.feed == 'streaming' else unprepared}.")
    dataset.feed = "streaming"
    if dataset.image_size is None and height is None:
        dataset.image_size = feed_config.DEFAULT_IMAGE_SIZE
    if dataset.image_size is not None:
        height = width = dataset.image_size
    return (height, width, channels), classes  # type: ignore[return-value]  # Both sides are known by now.
