"""Choice of the feed, resident or streaming, and of the image size, from the `dataset` settings."""

import math
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data.decode import MAX_BIT_DEPTH
from resnet_jax.data.host_batches import ExampleLoader
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.data.workers import default_workers
from resnet_jax.errors import UserError, program, unknown_name
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter

FEEDS = ("auto", "resident", "streaming")
MEMORY_DIVISOR = 4  # a resident dataset may take at most 1/MEMORY_DIVISOR of the free memory; the model needs the rest
DEFAULT_IMAGE_SIZE = 224  # for images that differ in size, as in most of the literature on ImageNet
DEFAULT_RESIZE_RATIO = 256 / 224  # ratio of the resized short side to the size of the center crop, in evaluation
STATISTICS_SAMPLE = 500  # number of images on which mean and std are measured if images are streamed


# ---------------------------------------------------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------------------------------------------------


def check(dataset: ConfigDict) -> None:
    """Raise `UserError` for settings that contradict each other."""
    if dataset.feed not in FEEDS:
        raise unknown_name("dataset.feed", dataset.feed, FEEDS)
    if dataset.feed == "resident":
        for name in ("eval_resize", "eval_crop"):
            if dataset[name] is not None:
                raise UserError(
                    f"dataset.{name} ({dataset[name]}) needs a streaming feed, because a resident feed does not crop "
                    "images in evaluation. Leave it unset, or use --config.dataset.feed=streaming."
                )
    if dataset.image_size is None and (dataset.eval_resize or dataset.eval_crop):
        raise UserError(
            "dataset.eval_resize and dataset.eval_crop need dataset.image_size. Set it to the training size."
        )
    resize, crop = dataset.eval_resize, dataset.eval_crop or dataset.image_size
    if resize and crop > resize:
        raise UserError(
            f"the crop in evaluation ({crop} pixels) is larger than dataset.eval_resize ({resize}). "
            "Increase dataset.eval_resize."
        )


def resolve(dataset: ConfigDict, subset: Subset, mesh: Mesh, scored: Sequence[Subset] = ()) -> str:
    """Fill in `feed`, `image_size`, `eval_resize` and `eval_crop` where `dataset` leaves them open.

    Args:
      dataset: the settings.
      subset: the training examples.
      mesh: the devices.
      scored: the examples of the splits that the run will score.

    Returns:
      A log line with the feed and the reason for it.

    Raises:
      UserError: if the feed is set to a resident one, which cannot resize the images to score.
    """
    shapes = subset.image_shapes
    all_shapes = {shape for part in (subset, *scored) for shape in part.image_shapes}
    # A resident feed stores each split in one shape. Each step resizes the images to a square, which distorts others.
    squares = all(height == width for height, width, _ in all_shapes)
    differ = any(len(part.image_shapes) > 1 for part in (subset, *scored)) or (len(all_shapes) > 1 and not squares)
    if dataset.feed == "resident" and len(shapes) == 1 and differ:
        raise UserError(
            "images of the validation or test split differ in size, from each other or from those for training. Set "
            "dataset.image_size and dataset.feed=streaming to resize all images."
        )
    reason = "as configured"
    if dataset.feed == "auto":
        dataset.feed, reason = _choose_feed(dataset, subset, mesh, differ)
    if dataset.feed == "streaming":
        if dataset.image_size is None and len(all_shapes) > 1:
            is_square = len(shapes) == 1 and shapes[0][0] == shapes[0][1]
            dataset.image_size = shapes[0][0] if is_square else DEFAULT_IMAGE_SIZE
        if dataset.image_size is not None:
            resolve_evaluation_size(dataset)
    elif dataset.image_size is None and len(shapes) == 1 and shapes[0][0] == shapes[0][1]:
        # Images are not resized, but prediction needs to know the size.
        dataset.image_size = shapes[0][0]
    return f"Feed: {dataset.feed}, {reason}."


def resolve_evaluation_size(dataset: ConfigDict) -> None:
    """Fill in `eval_resize` and `eval_crop` for streamed images of `image_size`, where `dataset` leaves them open."""
    dataset.eval_crop = dataset.eval_crop or dataset.image_size
    dataset.eval_resize = dataset.eval_resize or round(dataset.eval_crop * DEFAULT_RESIZE_RATIO)


def _choose_feed(dataset: ConfigDict, subset: Subset, mesh: Mesh, images_differ: bool) -> tuple[str, str]:
    """Return the feed for `feed="auto"`, and the reason for it.

    Args:
      dataset, subset, mesh: see `resolve`.
      images_differ: whether the images differ in size, so that a resident feed cannot hold them.
    """
    free = parallel.free_memory(mesh)  # All processes call this, even if their images differ by mistake.
    if dataset.eval_resize or dataset.eval_crop:
        return "streaming", "because dataset.eval_resize and dataset.eval_crop need it"
    size, (height, width, _) = dataset.image_size, subset.image_shape
    images, setting = f"images of {height} x {width}", f"dataset.image_size ({size})"
    if images_differ:
        side = height if len(subset.image_shapes) == 1 and height == width else DEFAULT_IMAGE_SIZE
        unset = f" (dataset.image_size is unset, so {side} is used)" if size is None else ""
        return "streaming", f"because images differ in size{unset}"
    # A resident feed stores images in their own size, and each step resizes them to a square. So images larger than the
    # square would waste memory, and images that are not square would be distorted.
    if size is not None and max(height, width) > size:
        return "streaming", f"because {images} are larger than {setting}"
    if size is not None and height != width:
        return "streaming", f"because {images} are not square, but {setting} is the side of a square"
    needed = decoded_bytes(subset)
    memory = f"{len(subset):,} images take {needed / 1e6:,.1f} MB of {free / 1e6:,.0f} MB free on a device"
    if needed * MEMORY_DIVISOR > free:
        return "streaming", f"because {memory}, which is more than 1/{MEMORY_DIVISOR}"
    resized = f", and each step resizes its images to {size} x {size}" if size not in (None, height) else ""
    return "resident", f"because {memory}{resized}"


def decoded_bytes(subset: Subset) -> int:
    """Return the size of all decoded images in bytes, as if each were as large as the largest of the first images."""
    return len(subset) * max(math.prod(shape) for shape in subset.image_shapes)


def num_workers(dataset: ConfigDict) -> int:
    """Return the number of worker processes."""
    return default_workers() if dataset.num_workers is None else dataset.num_workers


# ---------------------------------------------------------------------------------------------------------------------
# Examples, in the form that the resolved settings describe
# ---------------------------------------------------------------------------------------------------------------------


def example_loader(dataset: ConfigDict, subset: Subset, training: bool) -> ExampleLoader:
    """Return the loader for streamed examples, for training or for evaluation.

    The loaded images are squares of `dataset.image_size` pixels in training and `dataset.eval_crop` pixels in
    evaluation. If `dataset.image_size` is unset, images keep their shape.
    """
    if dataset.image_size is None:
        return ExampleLoader(subset, subset.image_shape, resized=False)
    size = dataset.image_size if training else dataset.eval_crop
    return ExampleLoader(subset, (size, size, subset.image_shape[-1]), resized=True)


def training_image_shape(dataset: ConfigDict, subset: Subset) -> tuple[int, int, int]:
    """Return (height, width, channels) of the images that the feed provides for training."""
    if dataset.feed == "resident":
        return subset.image_shape
    return example_loader(dataset, subset, training=True).shape


def streamed_examples(dataset: ConfigDict, subset: Subset, reporter: Reporter) -> StreamedExamples:
    """Return examples of the run's own dataset for evaluation. Each image is read when it is needed."""
    loader = example_loader(dataset, subset, training=False)
    return StreamedExamples(loader, dataset.eval_resize, num_workers(dataset), reporter)


def external_examples(
    dataset: ConfigDict, subset: Subset, num_workers: int, reporter: Reporter | None
) -> StreamedExamples:
    """Return examples from outside the run's own dataset. Each image is read when it is needed.

    Their images may have any size. They are resized to the size of the run's own images in evaluation. If the run has a
    streaming feed, they are also cropped like these. If it has a resident feed, the central square is cropped, so that
    images that already have the right size stay unchanged. If `dataset.image_size` is unset, images are neither resized
    nor cropped, and all of them must have the same shape.

    Args:
      dataset: the resolved `dataset` settings of the run.
      subset: the examples. Its `bit_depth` is set, which later decoding of its images uses.
      num_workers: number of processes that decode; 0 uses threads of this process.
      reporter: see `StreamedExamples`.
    """
    subset.bit_depth = dataset.bit_depth or MAX_BIT_DEPTH
    if dataset.image_size is None:
        loader = ExampleLoader(subset, subset.image_shape, resized=False)
        return StreamedExamples(loader, None, num_workers, reporter)
    size = dataset.eval_crop or dataset.image_size
    loader = ExampleLoader(subset, (size, size, subset.channels), resized=True)
    return StreamedExamples(loader, dataset.eval_resize or size, num_workers, reporter)


def sample_images(dataset: ConfigDict, subset: Subset, reporter: Reporter) -> np.ndarray:
    """Return evenly spaced images of a subset, on which to measure mean and std: uint8 [n, height, width, channels].

    Raises:
      UserError: if none of them can be read.
    """
    positions = np.unique(np.linspace(0, len(subset) - 1, STATISTICS_SAMPLE).astype(int))
    examples = streamed_examples(dataset, subset.take(positions), reporter)
    batches = examples.batches(32, np.arange(32))
    images = np.concatenate([images[info.labels != NO_LABEL] for images, info in batches])
    if not len(images):
        raise UserError(
            f"none of {len(positions):,} training images can be read. Check the dataset with `{program()} inspect`."
        )
    return images
