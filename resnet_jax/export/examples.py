"""Images on which an exported file is checked, calibrated and scored."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from resnet_jax.data import class_matching, splits
from resnet_jax.data.dataset import TRAINING, VALIDATION, common_classes, examples_of_run
from resnet_jax.data.sources import WithoutLabels, open_local_sources, open_sources
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import open_external_examples
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel

RANDOM_IMAGES = 64

logger = logging.getLogger(__name__)


class Examples(NamedTuple):
    """Readable examples of a dataset, or random images.

    Attributes:
      images: uint8 [n, height, width, channels], in the size that the model takes.
      name: what the images are, such as "validation images".
    """

    images: np.ndarray
    name: str


class RunExamples:
    """The examples on which a model was validated, or those on which it was trained.

    Args:
      trained: the model.
      name: "validation" or "training". A model without validation examples has its training examples in their place.
      data_dir: the location of the data; None: as in training.
      reporter: shows the progress.

    Attributes:
      name: what the images are: "validation images" or "training images".

    Raises:
      UserError: if the dataset cannot be opened, or does not fit the model.
    """

    def __init__(self, trained: TrainedModel, name: str, data_dir: str | None, reporter: Reporter):
        dataset = trained.config.dataset.copy_and_resolve_references()
        sources = open_sources(dataset.name, data_dir or dataset.data_dir)
        common_classes(sources)
        splits.resolve(dataset, sources)
        reporter.max_unreadable = dataset.max_unreadable
        if dataset.validation_split == splits.NO_SPLIT:
            name = TRAINING
            if trained.config.pretrain.method is not None:  # As in training, which did not read labels.
                sources = {split: WithoutLabels(source) for split, source in sources.items()}
        self.name = f"{name} images"
        self._subset = examples_of_run(dataset, sources, name, reporter)
        self._trained = trained
        self._reporter = reporter

    def __len__(self) -> int:
        return len(self._subset)

    def sample(self, size: int) -> Examples:
        """Return evenly spaced examples.

        Raises:
          UserError: if none of them can be read.
        """
        positions = np.unique(np.linspace(0, len(self) - 1, size).astype(int))
        images = np.concatenate([images for images, _ in self._read(self._subset.take(positions), batch_size=64)])
        if not len(images):
            raise UserError(f"none of the {self.name} can be read. Check them with the command inspect.")
        return Examples(images, self.name)

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over the images, and the labels of the model, of all examples that can be read."""
        labels_of_model = np.asarray(class_matching.match(self._subset.classes, self._trained.classes), np.int32)
        for images, labels in self._read(self._subset, batch_size):
            yield images, labels_of_model[labels]

    def _read(self, subset: Subset, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        examples = open_external_examples(self._trained, subset, self._reporter)
        channels = len(self._trained.preprocess.mean)
        for images, info in examples.batches(batch_size, np.arange(batch_size)):
            readable = info.labels != NO_LABEL
            # If the model normalizes gray images to three channels, the file takes three.
            colored = np.broadcast_to(images[readable], (readable.sum(), *images.shape[1:3], channels))
            yield colored, info.labels[readable]


def sample_validation(trained: TrainedModel, size: int, data_dir: str | None, reporter: Reporter) -> Examples:
    """Return some validation examples; or random images, with a warning, if the dataset cannot be opened.

    Raises:
      UserError: as `RunExamples` and `RunExamples.sample` do; or if there is neither a dataset nor an image size.
    """
    dataset = trained.config.dataset
    image_size = dataset.eval_crop or dataset.image_size
    if data_dir or image_size is None:
        return RunExamples(trained, VALIDATION, data_dir, reporter).sample(size)
    try:
        open_local_sources(dataset.name, dataset.data_dir)
    except UserError as error:
        logger.warning(f"The file is checked on random images, because the dataset cannot be opened: {error}")
        shape = (RANDOM_IMAGES, image_size, image_size, len(dataset.mean))
        return Examples(np.random.default_rng(0).integers(0, 256, shape, np.uint8), "random images")
    return RunExamples(trained, VALIDATION, data_dir, reporter).sample(size)
