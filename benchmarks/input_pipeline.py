"""Images per second of our streaming feed, PyTorch's DataLoader and tf.data, from JPEG files to uint8 batches.

    pip install -r requirements.txt && pip install torch --index-url https://download.pytorch.org/whl/cpu
    python -m benchmarks.input_pipeline --images=FOLDER    # FOLDER/CLASS/IMAGE.jpg, or FOLDER/SPLIT/CLASS/IMAGE.jpg

RESULT, 2026-11-30, commit 2fe1c31, 2 cores of an AMD EPYC (cpu family 25, model 17; a shared machine), 2,000 copies of
191 photographs of ants and bees of about 500 x 375 pixels, median of 3 rounds (lowest .. highest) in images/s:

    ours                  1,419  (1,372 .. 1,419)
    ours, decoded         5,792  (5,382 .. 6,271)   4.08 x ours
    PyTorch                 806    (733 ..   816)   ours is 1.76 x as fast, decoded 7.2 x
    tf.data               1,481  (1,360 .. 1,485)   0.96 x, decoded 3.9 x
    tf.data, antialiased    726    (659 ..   782)   1.95 x

The goal of 2 x PyTorch and 1.2 x tf.data is reached with decoded images only. Our feed takes 1.38 ms per image on one
core, 0.99 ms of them in libjpeg-turbo, mostly for entropy decoding. Other decoders that were tried are no faster.
tf.data saves work in two ways: it does not compute the colors and pixels outside the crop, which simplejpeg cannot
avoid, and it resizes without antialiasing. All files came from the page cache.

All feeds but one read the same files in random order, take a random crop of each image (8 to 100 % of its area, aspect
ratio 3:4 to 4:3), resize it to 224 x 224, mirror half of the images, and deliver batches of 64 with labels, with two
workers on two cores.

- *ours* is what a streaming run uses: `TrainingBatchLoader` through `workers.arrays`. A run mirrors images on the
  device, where that costs the host nothing. Here the process that takes the batches mirrors them, so that all feeds do
  the same work.
- *ours, decoded* reads the same images from the dataset that `python main.py decode` writes, with a short side of 256
  pixels.
- *PyTorch* applies the transforms of torchvision, written out here: PIL decodes the whole image, then crops and resizes
  it in one call. The slower random numbers of torchvision and the transpose to [3, height, width] are left out.
- *tf.data* decodes only the crop. Its random crops are a little smaller: for images of 500 x 375, they cover 35 % of
  the area on average, and those of the other two 41 %. It resizes without antialiasing, as in the ImageNet recipes of
  TensorFlow; the other two resize with antialiasing.
- *tf.data, antialiased* resizes with antialiasing too, for the same quality.

Each measurement has its own process, on the same cores. The first batches are not timed. Files come from the page
cache. The feeds take turns in rounds, so that other load on the machine affects all of them.

Below the comparison, the benchmark prints how long each stage of our feed takes, with the real code in one process.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from unittest import mock

import cv2
import numpy as np
from absl import app, flags, logging
from PIL import Image

from resnet_jax.data import crops, decode
from resnet_jax.data.folder import FolderSource, open_folder
from resnet_jax.data.sampling import UniformSampler
from resnet_jax.errors import UserError
from resnet_jax.runtime import provenance
from resnet_jax.terminal import table

IMAGES = flags.DEFINE_string("images", None, "Folder with one directory of JPEGs per class.")
COUNT = flags.DEFINE_integer("count", 2000, "Number of files to time. The folder's files are repeated to reach it.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images per batch.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements per feed.", 1)
CORES = flags.DEFINE_integer("cores", 2, "CPU cores for all processes of a feed, and the number of its workers.", 1)
OUTPUT = flags.DEFINE_string("output", "benchmarks/results.jsonl", "File to which to append the results.")

OURS = "ours"
SIZE = 224
DECODED_SIZE = 256
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
WARM_UP = 16  # batches that are not timed: more than any feed prefetches, so that no prefetched batch is timed
ENDLESS = 10**9  # a number of batches or images that no measurement reaches
JPEG = b"\xff\xd8\xff"  # the first bytes of a JPEG file
VERSIONS_OF = ("torch", "tensorflow", "grain", "simplejpeg", "cv2", "PIL", "numpy")

Batch = tuple[object, object]  # images and labels


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.ERROR)
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run() -> None:
    _pin(CORES.value)
    machine = provenance.describe()
    distributions = metadata.packages_distributions()
    versions = {name: metadata.version(distributions[name][0]) for name in VERSIONS_OF if name in distributions}
    for name, (module, _) in FEEDS.items():
        if module not in versions:
            print(f"{name} is skipped: {module} is not installed")
    feeds = [name for name, (module, _) in FEEDS.items() if module in versions]
    with tempfile.TemporaryDirectory() as folder:
        files = _fill(os.path.join(folder, "files"), IMAGES.value, COUNT.value)
        megabytes = sum(map(os.path.getsize, files)) / 1e6
        print(f"{machine['machine']}, {CORES.value} cores; {len(files):,} JPEGs, {megabytes:,.0f} MB", flush=True)
        _run_in_new_process(_decode, folder)
        rates = _take_turns(feeds, folder)
        costs = _run_in_new_process(stage_costs, folder, BATCH_SIZE.value, COUNT.value)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        name: statistics.median(ours / other for ours, other in zip(rates[OURS], values, strict=True))
        for name, values in rates.items()
    }
    _print(rates, medians, ratios, costs)
    if OUTPUT.value:
        settings = {flag.name: flag.value for flag in (COUNT, BATCH_SIZE, ROUNDS, CORES)}
        settings["pictures"] = os.path.basename(os.path.normpath(IMAGES.value))
        figures = {"images_per_second": rates, "median": medians, "ours_is_faster": ratios, "milliseconds": costs}
        with open(OUTPUT.value, "a", encoding="utf-8") as file:
            line = {"benchmark": "input_pipeline", **machine, "versions": versions, **settings, "megabytes": megabytes}
            file.write(json.dumps({**line, **figures}) + "\n")
        print(f"\nadded to {OUTPUT.value}")


def images_per_second(name: str, folder: str, batch_size: int, count: int, cores: int) -> float:
    """Return the images per second of a feed over at least `count` images, after a warm-up."""
    batches = FEEDS[name][1](folder, batch_size, cores)
    for _ in range(WARM_UP):
        images, labels = map(np.asarray, next(batches))
    if (images.shape, images.dtype) != ((batch_size, SIZE, SIZE, 3), np.uint8) or labels.shape != (batch_size,):
        raise RuntimeError(f"{name} gives {images.dtype} {images.shape} with labels {labels.shape}")
    timed = math.ceil(count / batch_size)
    start = time.perf_counter()
    for _ in range(timed):
        next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    return timed * batch_size / seconds


def ours(folder: str, batch_size: int, cores: int, is_decoded: bool = False) -> Iterator[Batch]:
    from resnet_jax.data import decoded, workers

    source = decoded.open_decoded(f"decoded:{folder}/decoded")["train"] if is_decoded else _source(folder)
    load_batch = _training_batches(source, batch_size)
    draws = np.random.default_rng(0)
    with workers.arrays(load_batch, range(ENDLESS), load_batch.shape, cores) as batches:
        for images, rows in batches:
            for row in np.flatnonzero(draws.random(batch_size) < 0.5):
                images[row] = cv2.flip(images[row], 1)
            yield images, rows.labels


def pytorch(folder: str, batch_size: int, cores: int) -> Iterator[Batch]:
    from torch.utils.data import DataLoader, RandomSampler

    images = TorchImages(_source(folder))
    sampler = RandomSampler(images, num_samples=ENDLESS)
    yield from DataLoader(
        images, batch_size, sampler=sampler, num_workers=cores, persistent_workers=True, prefetch_factor=2
    )


class TorchImages:
    """A dataset for PyTorch's DataLoader, with torchvision's transforms for training."""

    def __init__(self, source: FolderSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[object, int]:
        import torch

        image = Image.open(self._source.name(index)).convert("RGB")
        top, left, height, width = crops.random_box(
            image.height, image.width, torch.rand(crops.NUM_DRAWS).numpy(), SCALE, RATIO
        )
        box = (left, top, left + width, top + height)
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)), int(self._source.labels[index])


def tf_data(folder: str, batch_size: int, cores: int, antialias: bool = False) -> Iterator[Batch]:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # Otherwise TensorFlow prints a notice.
    import tensorflow as tf

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        encoded = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(encoded),
            bounding_boxes=[[[0.0, 0.0, 1.0, 1.0]]],
            min_object_covered=0.0,
            aspect_ratio_range=RATIO,
            area_range=SCALE,
            max_attempts=10,
        )
        image = tf.io.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], size[:2]], 0), channels=3)
        image = tf.cast(tf.image.resize(image, (SIZE, SIZE), antialias=antialias), tf.uint8)
        return tf.image.random_flip_left_right(image), label

    source = _source(folder)
    paths = [source.name(index) for index in range(len(source))]
    data = tf.data.Dataset.from_tensor_slices((paths, source.labels)).shuffle(len(paths)).repeat()
    data = data.map(load, num_parallel_calls=cores).batch(batch_size).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    yield from data.with_options(options)


# For each feed: the module that it needs, and a function from (folder, batch size, cores) to an endless iterator of
# batches: images, uint8 [batch, height, width, 3], and labels, [batch].
FEEDS: dict[str, tuple[str, Callable[[str, int, int], Iterator[Batch]]]] = {
    OURS: ("grain", ours),
    "ours, decoded": ("grain", functools.partial(ours, is_decoded=True)),
    "PyTorch": ("torch", pytorch),
    "tf.data": ("tensorflow", tf_data),
    "tf.data, antialiased": ("tensorflow", functools.partial(tf_data, antialias=True)),
}


def stage_costs(folder: str, batch_size: int, count: int) -> dict[str, float]:
    """Return the milliseconds per image that each stage of our feed takes on one core."""
    from resnet_jax.data import host_batches, workers

    stages = {
        "read the file": (FolderSource, "__getitem__"),
        "read the header": (decode.ImageFile, "__init__"),
        "draw a crop": (host_batches.TrainingBatchLoader, "_choose_box"),
        "decode": (decode.ImageFile, "pixels"),
        "crop and resize": (crops, "resize"),
    }
    cv2.setNumThreads(0)  # as in a worker
    load_batch = _training_batches(_source(folder), batch_size)
    images = np.empty(load_batch.shape, np.uint8)
    load_batch(0, images)  # Compute the order of the epoch, which is not timed.
    seconds: Counter[str] = Counter()
    steps = range(1, 1 + math.ceil(count / batch_size))
    with contextlib.ExitStack() as clocks:
        for stage, (owner, name) in stages.items():
            clocks.enter_context(mock.patch.object(owner, name, _clocked(getattr(owner, name), stage, seconds)))
        start = time.perf_counter()
        for step in steps:
            load_batch(step, images)
        elapsed = time.perf_counter() - start
    seconds["everything else"] = elapsed - seconds.total()
    with workers.arrays(_load_nothing, range(ENDLESS), load_batch.shape, num_workers=1) as batches:
        for _ in range(WARM_UP):
            next(batches)
        start = time.perf_counter()
        for _ in steps:
            next(batches)
        seconds["hand over"] = time.perf_counter() - start
    return {stage: 1000 * taken / (len(steps) * batch_size) for stage, taken in seconds.items()}


def _clocked(function: Callable, stage: str, seconds: Counter[str]) -> Callable:
    """Return `function`, wrapped so that the seconds of each call are added to `seconds[stage]`."""

    def clocked(*arguments, **named):
        start = time.perf_counter()
        result = function(*arguments, **named)
        seconds[stage] += time.perf_counter() - start
        return result

    return clocked


def _load_nothing(number: int, images: np.ndarray) -> None:
    """Do nothing, in place of loading a batch, to time only the transfer between processes."""


def _training_batches(source, batch_size: int):
    from resnet_jax.data.host_batches import ExampleLoader, TrainingBatchLoader
    from resnet_jax.data.subset import Subset

    loader = ExampleLoader(Subset.from_split({"train": source}, "train"), (SIZE, SIZE, 3), resized=True)
    return TrainingBatchLoader(loader, batch_size, np.arange(batch_size), UniformSampler(0, len(loader.subset)), SCALE)


def _source(folder: str) -> FolderSource:
    return open_folder(os.path.join(folder, "files"))["train"]


def _decode(folder: str) -> None:
    from resnet_jax.data.decoded_writer import write_decoded
    from resnet_jax.terminal import Reporter

    with Reporter(active=False, max_unreadable=0) as reporter:
        write_decoded("files", {"train": _source(folder)}, os.path.join(folder, "decoded"), DECODED_SIZE, 0, reporter)


def _fill(folder: str, image_folder: str, count: int) -> list[str]:
    """Copy JPEGs into directories of their classes until there are `count` copies, and return the copies' paths."""
    images = (
        (source.name(index), source.classes[source.labels[index]])
        for source in open_folder(image_folder).values()
        for index in range(len(source))
    )
    jpegs = ((path, class_name) for path, class_name in images if _is_jpeg(path))
    copies = []
    for number, (path, class_name) in enumerate(itertools.islice(itertools.cycle(jpegs), count)):
        os.makedirs(os.path.join(folder, class_name), exist_ok=True)
        copies.append(shutil.copy(path, os.path.join(folder, class_name, f"{number}.jpg")))
    if not copies:
        raise UserError(f"--images ({image_folder}) holds no JPEG files. Choose a folder that does.")
    return copies


def _is_jpeg(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(JPEG)) == JPEG


def _pin(cores: int) -> None:
    """Restrict this process and the processes that it starts to this many cores."""
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("this benchmark restricts its processes to some CPU cores, which requires Linux.")
    allowed = sorted(os.sched_getaffinity(0))
    if cores > len(allowed):
        raise UserError(f"--cores ({cores}) exceeds the number of cores that this process may use ({len(allowed)}).")
    os.sched_setaffinity(0, allowed[:cores])


def _run_in_new_process(function: Callable, *arguments):
    """Call a function in a new process, and return its result."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _take_turns(feeds: list[str], folder: str) -> dict[str, list[float]]:
    """Return the images per second of each feed in each round."""
    rates: dict[str, list[float]] = {name: [] for name in feeds}
    for number in range(1, 1 + ROUNDS.value):
        first = number % len(feeds)  # Each round starts with another feed.
        for name in feeds[first:] + feeds[:first]:
            arguments = (name, folder, BATCH_SIZE.value, COUNT.value, CORES.value)
            rates[name].append(_run_in_new_process(images_per_second, *arguments))
        print(
            f"round {number}: " + ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items()), flush=True
        )
    return rates


def _print(
    rates: dict[str, list[float]], medians: dict[str, float], ratios: dict[str, float], costs: dict[str, float]
) -> None:
    rows = [
        (name, round(medians[name]), f"{min(values):,.0f} .. {max(values):,.0f}", f"{ratios[name]:.2f} x")
        for name, values in rates.items()
    ]
    print("\n" + table(rows, header=("feed", "images/s", "range over rounds", "speed of ours")))
    rows = [(stage, f"{cost:.3f}") for stage, cost in costs.items()]
    print("\n" + table([*rows, ("total", f"{sum(costs.values()):.3f}")], header=("stage of ours", "ms per image")))


if __name__ == "__main__":
    flags.mark_flag_as_required("images")
    app.run(main)
