"""Which way examples reach the device: resident or streaming, and in which size."""

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data.decode import ImageFile, Unreadable
from resnet_jax.data.host_batches import Loader
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.data.workers import default_workers
from resnet_jax.errors import UserError, unknown_name
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter

FEEDS = ("auto", "resident", "streaming")
LOOKED_AT = 64  # pictures, to see whether all are of one size
SHARE_OF_MEMORY = 4  # a resident set may take one part in so many of what is free: the network needs the rest
USUAL_SIZE = 224  # of pictures that differ in size, as in most of the literature on ImageNet
USUAL_RESIZE = 256 / 224  # of an evaluated picture's short side, to what is cut out of it
MEASURED = 500  # pictures that mean and deviation are measured on where pictures are streamed


def check(dataset: ConfigDict) -> None:
    """Raises `UserError` for settings that contradict each other."""
    if dataset.feed not in FEEDS:
        raise unknown_name("dataset.feed", dataset.feed, FEEDS)
    if dataset.feed == "resident":
        for name in ("eval_resize", "eval_crop"):
            if dataset[name] is not None:
                raise UserError(
                    f"dataset.{name} is for pictures that are cut while they are streamed, and a resident feed keeps "
                    "them whole: leave it unset, or take --config.dataset.feed=streaming"
                )
    if dataset.image_size is None and (dataset.eval_resize or dataset.eval_crop):
        raise UserError("dataset.eval_resize and dataset.eval_crop need dataset.image_size, the size in training")
    resize, crop = dataset.eval_resize, dataset.eval_crop or dataset.image_size
    if resize and crop > resize:
        raise UserError(f"what is cut out in evaluation ({crop} pixels) is more than dataset.eval_resize ({resize})")


def resolve(dataset: ConfigDict, selection: Subset, mesh: Mesh) -> str:
    """Fills in what `dataset` leaves open of `feed`, `image_size`, `eval_resize` and `eval_crop`; returns why."""
    shapes = _shapes(selection)
    differ = len(shapes) > 1
    reason = "as the settings of the run say"
    if dataset.feed == "auto":
        dataset.feed, reason = _choose(dataset, selection, shapes, mesh)
    if dataset.feed == "streaming":
        if dataset.image_size is None and differ:
            dataset.image_size = USUAL_SIZE
        if dataset.image_size is not None:
            dataset.eval_crop = dataset.eval_crop or dataset.image_size
            dataset.eval_resize = dataset.eval_resize or round(dataset.eval_crop * USUAL_RESIZE)
    elif dataset.image_size is None and not differ and shapes[0][0] == shapes[0][1]:
        dataset.image_size = shapes[0][0]  # As they are; recorded, for what the network is to see later.
    return f"Feed: {dataset.feed}, {reason}."


def loader(dataset: ConfigDict, selection: Subset, training: bool) -> Loader:
    """Loads streamed examples as the resolved settings say."""
    if dataset.image_size is None:
        return Loader(selection, image_shape(selection), resized=False)
    size = dataset.image_size if training else dataset.eval_crop
    return Loader(selection, (size, size, image_shape(selection)[-1]), resized=True)


def fed_shape(dataset: ConfigDict, selection: Subset) -> tuple[int, int, int]:
    """Height, width and channels of the pictures as a feed gives them in training, as the resolved settings say."""
    if dataset.feed == "resident":
        return image_shape(selection)
    return loader(dataset, selection, training=True).shape


def streamed_examples(dataset: ConfigDict, selection: Subset, reporter: Reporter) -> StreamedExamples:
    """Examples to be scored."""
    return StreamedExamples(loader(dataset, selection, False), dataset.eval_resize, num_workers(dataset), reporter)


def given_examples(
    dataset: ConfigDict, selection: Subset, num_workers: int, reporter: Reporter | None
) -> StreamedExamples:
    """Pictures of any size, whatever the feed, brought to the size that the network sees in evaluation.

    A streamed run cuts out of them what it does there, others the square in the middle; so what has their size already
    stays as it is. Where a run has no size, all must have one shape. For `reporter`, see `StreamedExamples`.
    """
    if dataset.image_size is None:
        return StreamedExamples(Loader(selection, image_shape(selection), resized=False), None, num_workers, reporter)
    size = dataset.eval_crop or dataset.image_size
    loader = Loader(selection, (size, size, selection.channels), resized=True)
    return StreamedExamples(loader, dataset.eval_resize or size, num_workers, reporter)


def sample(dataset: ConfigDict, selection: Subset, reporter: Reporter) -> np.ndarray:
    """Pictures to measure mean and deviation on, evenly over the selection: uint8 [n, height, width, channels]."""
    positions = np.unique(np.linspace(0, len(selection) - 1, MEASURED).astype(int))
    examples = streamed_examples(dataset, selection.take(positions), reporter)
    batches = examples.batches(32, np.arange(32))
    return np.concatenate([images[rows.labels != NO_LABEL] for images, rows in batches])


def num_workers(dataset: ConfigDict) -> int:
    return default_workers() if dataset.num_workers is None else dataset.num_workers


def image_shape(selection: Subset) -> tuple[int, int, int]:
    """Height, width and channels of the first picture."""
    return _shapes(selection)[0]


def decoded_bytes(selection: Subset) -> int:
    """What a selection takes in memory, judged by its largest picture among the first ones."""
    return len(selection) * max(int(np.prod(shape)) for shape in _shapes(selection))


def _choose(dataset: ConfigDict, selection: Subset, shapes: list, mesh: Mesh) -> tuple[str, str]:
    if dataset.eval_resize or dataset.eval_crop:
        return "streaming", "since dataset.eval_resize and dataset.eval_crop are for pictures that are streamed"
    size, (height, width, _) = dataset.image_size, shapes[0]
    if len(shapes) > 1:
        unset = f" (dataset.image_size unset: {USUAL_SIZE})" if size is None else ""
        return "streaming", f"since pictures differ in size{unset}"
    # Resized as a whole, pictures that are not square would be distorted, and larger ones kept for pixels never seen.
    if size is not None and not height == width <= size:
        how = "larger" if max(height, width) > size else "not square"
        return "streaming", f"since dataset.image_size asks for resizing, and pictures of {height} x {width} are {how}"
    needed, free = decoded_bytes(selection), parallel.free_memory(mesh)
    sizes = f"the {len(selection):,} pictures take {needed / 1e6:,.1f} MB of {free / 1e6:,.0f} MB free on a device"
    if needed * SHARE_OF_MEMORY > free:
        return "streaming", f"since {sizes}, more than one part in {SHARE_OF_MEMORY}"
    resized = f", and each step resizes its own to {size} x {size}" if size not in (None, height) else ""
    return "resident", sizes + resized


def _shapes(selection: Subset) -> list[tuple[int, int, int]]:
    """The different shapes of the first pictures that can be read."""
    shapes = []
    for position in range(min(LOOKED_AT, len(selection))):
        try:
            image, _ = selection[position]
            if isinstance(image, bytes):
                file = ImageFile(image)
                shapes.append((file.height, file.width, selection.channels))
            else:
                shapes.append(image.shape)
        except Unreadable:  # It is told when its turn comes.
            continue
    if not shapes:
        raise UserError(f"not one of the first {min(LOOKED_AT, len(selection))} pictures can be read")
    return list(dict.fromkeys(shapes))
