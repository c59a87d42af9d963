"""Explanation of predictions: how important each pixel is for a class. See `attribution` for the methods."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from resnet_jax.data import class_matching, crops
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import decode_image
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.terminal import Reporter, printable
from resnet_jax.trained_model import Attributions, TrainedModel

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The maps of one image.

    Attributes:
      name: the path of the image, or the name of the example.
      pixels: the image in its own size, uint8 [height, width, channels].
      label: the name of the true class; None if it is unknown.
      prediction: the name of the predicted class.
      probability: its probability.
      target: the name of the class that the maps are about.
      target_probability: its probability.
      maps: float32 [height, width] by method, in the geometry of `pixels`. Pixels that evaluation crops away are zero.
      completeness_gaps: the error of the sum of the map, by method, for methods that have it; in units of the logit.
    """

    name: str
    pixels: np.ndarray
    label: str | None
    prediction: str
    probability: float
    target: str
    target_probability: float
    maps: Mapping[str, np.ndarray]
    completeness_gaps: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Problem:
    """An image that cannot be read, and why."""

    name: str
    reason: str


class Explainer:
    """Explains the predictions of a trained model.

    Args:
      trained: the trained model.
      methods, target, stage: see `TrainedModel.explain`. Methods that are named twice count once.

    Attributes:
      trained, methods, stage: the arguments.

    Raises:
      UserError: if there is no such method, class or stage.
    """

    def __init__(
        self, trained: TrainedModel, methods: Sequence[str], target: str | None = None, stage: str | None = None
    ):
        trained.check_attribution(methods, target, stage)
        self.trained = trained
        self.methods = tuple(dict.fromkeys(methods))
        self.stage = stage
        self._target = target

    def explain(
        self, examples: StreamedExamples, reporter: Reporter, has_labels: bool
    ) -> Iterator[tuple[Attributions, Iterator[Explanation | Problem]]]:
        """Yield, for each batch of the examples, its maps and an iterator over the explanations of its images.

        Memory holds the model's images of a few batches, but only one image and its maps in the original size.

        Args:
          examples: the examples.
          reporter: shows the progress.
          has_labels: whether the labels of the examples have a meaning.

        Raises:
          UserError: as `TrainedModel.explain` does.
        """
        classes = examples.loader.subset.classes
        # With any number of labels per image, a label is the number of a combination of classes.
        has_labels = has_labels and not self.trained.is_multi_label
        labels = class_matching.match(classes, self.trained.classes) if has_labels else None
        show_progress = reporter.counter("explaining images")
        done = 0
        show_progress(done, len(examples))
        for batch in self.trained.attributions(examples, self.methods, self._target, self.stage):
            yield batch, self._explain_batch(examples, batch, done, labels)
            done += batch.num_images
            show_progress(done, len(examples))

    def _explain_batch(
        self, examples: StreamedExamples, batch: Attributions, first: int, labels: Sequence[int] | None
    ) -> Iterator[Explanation | Problem]:
        """Yield the explanations of a batch that begins with the example at position `first`.

        `labels` are the labels of the model by those of the examples.
        """
        subset, names = examples.loader.subset, self.trained.class_names
        targets = np.asarray(batch.targets)
        for row in range(batch.num_images):
            name = subset.name(first + row)
            try:
                if row in batch.problems:
                    raise Unreadable(batch.problems[row])
                image, label = subset[first + row]
                pixels = decode_image(image, subset.channels, subset.bit_depth)
            except Unreadable as error:  # The file may have changed since the batch was loaded.
                logger.warning(f"Unreadable: {printable(name)}: {error}")
                yield Problem(name, str(error))
                continue
            height, width = pixels.shape[:2]
            box = examples.box(height, width)
            probabilities, target = batch.probabilities[row], int(targets[row])
            yield Explanation(
                name=name,
                pixels=pixels,
                label=None if labels is None else names[labels[label]],
                prediction=names[int(probabilities.argmax())],
                probability=float(probabilities.max()),
                target=names[target],
                target_probability=float(probabilities[target]),
                maps={method: crops.to_original(maps[row], box, height, width) for method, maps in batch.maps.items()},
                completeness_gaps={method: float(gaps[row]) for method, gaps in batch.completeness_gaps.items()},
            )
