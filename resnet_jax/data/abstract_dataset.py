"""What a data set tells of itself: enough to compile a train step for it, with no set loaded and none downloaded."""

import logging
from typing import NoReturn

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data import feed_config, resident, splits, streaming, tfds
from resnet_jax.data.dataset import VALIDATION_FRACTION, Dataset, common_classes
from resnet_jax.data.feed import check_batch_size
from resnet_jax.data.folder import PREFIX
from resnet_jax.data.resident import EpochInputs
from resnet_jax.data.sources import open_sources
from resnet_jax.data.streaming import StreamedInputs
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)


class AbstractFeed:
    """A feed of `size` pictures that are not there: its inputs have shapes, types and places, and no values.

    Args:
      image_shape: height, width and channels of the pictures as they are fed.
      size: training examples.
      batch_size: of all devices together.
      mesh: the devices, which may be described alone.
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

    def abstract_inputs(self) -> EpochInputs | StreamedInputs:
        """Shapes, types and places of what a step takes."""
        if self._is_resident:
            return resident.abstract_inputs(self.size, self.image_shape, self._batch_size, self._mesh)
        return streaming.abstract_inputs(self.image_shape, self._batch_size, self._mesh)

    def arriving_inputs(self) -> tuple[()] | StreamedInputs:
        return () if self._is_resident else self.abstract_inputs()

    def inputs(self, step: int) -> NoReturn:
        """Raise `NotImplementedError`: there is no data."""
        raise NotImplementedError("an abstract feed has no data")

    def positions(self, step: int) -> NoReturn:
        """Raise `NotImplementedError`: there is no data."""
        raise NotImplementedError("an abstract feed has no data")

    def close(self) -> None:
        """Do nothing: there are no workers."""

    def take(self, inputs: EpochInputs | StreamedInputs, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images and labels of a step, inside a compiled function."""
        if self._is_resident:
            return resident.take_batch(inputs, step, self.image_shape, self._mesh)
        return inputs.images, inputs.labels


def describe_abstract_dataset(config: ConfigDict, mesh: Mesh) -> Dataset:
    """The inputs of a run, from what the data set tells of itself; without validation examples.

    Fills in of `config.dataset` what shapes depend on; mean and deviation that would have to be measured become 0.5,
    for they are constants of the program. Of a set at hand a few pictures are read to see their size. Of a TFDS set
    that has not been prepared all but the number of examples is known: it is taken as streamed, where the program does
    not depend on that.

    Raises:
      UserError: as `open_sources` does, and where a set that has not been prepared is to be resident.
    """
    dataset = config.dataset
    described = _at_hand if _is_at_hand(dataset) else _unprepared
    image_shape, size, classes = described(dataset, config.batch_size, mesh)
    if dataset.mean is None:
        dataset.mean = dataset.std = (0.5,) * image_shape[-1]
    is_resident = dataset.feed == "resident"
    crops_on_host = not is_resident and dataset.image_size is not None
    feed = AbstractFeed(image_shape, size, config.batch_size, mesh, is_resident, crops_on_host)
    return Dataset(feed, None, classes)


def _is_at_hand(dataset: ConfigDict) -> bool:
    of_tfds = dataset.name != "digits" and not dataset.name.startswith(PREFIX)
    return not of_tfds or tfds.is_prepared(dataset.name, dataset.data_dir)


def _at_hand(dataset: ConfigDict, batch_size: int, mesh: Mesh) -> tuple:
    sources = open_sources(dataset.name, dataset.data_dir)
    splits.resolve(dataset, sources)
    train = Subset.of(sources, dataset.train_split)
    logger.info(feed_config.resolve(dataset, train, mesh))
    held_out = round(VALIDATION_FRACTION * len(train)) if dataset.validation_split == "" else 0
    return feed_config.fed_shape(dataset, train), len(train) - held_out, common_classes(sources)


def _unprepared(dataset: ConfigDict, batch_size: int, mesh: Mesh) -> tuple:
    (height, width, channels), classes = tfds.describe_tfds(dataset.name, dataset.data_dir)
    if dataset.feed == "resident":
        raise UserError(
            f"data set {dataset.name!r} has not been prepared, and how much memory it takes is not known: "
            "leave dataset.feed unset, or train once, which prepares it"
        )
    dataset.feed = "streaming"
    if dataset.image_size is None and height is None:
        dataset.image_size = feed_config.USUAL_SIZE
    if dataset.image_size is not None:
        height = width = dataset.image_size
    logger.info(f"Feed: streaming, since {dataset.name} has not been prepared: it is known by its description alone.")
    return (height, width, channels), batch_size, classes
