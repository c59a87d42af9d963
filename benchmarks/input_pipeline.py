"""Images a second of our streaming feed, of PyTorch's DataLoader and of tf.data: from JPEG files to batches of uint8.

    pip install -r requirements.txt && pip install torch --index-url https://download.pytorch.org/whl/cpu
    python -m benchmarks.input_pipeline --pictures=FOLDER    # FOLDER/CLASS/PICTURE.jpg, or with train/ and val/ above

RESULT, 2026-11-22, commit 56008b9, 2 cores of an AMD EPYC (a shared machine), 2,000 copies of 191 pictures of ants and
bees of about 500 x 375, median of 5 rounds (lowest .. highest) in images/s:

    ours                  1,397  (1,238 .. 1,617)
    PyTorch                 898    (853 ..   965)   ours is 1.55 x as fast
    tf.data               1,737  (1,529 .. 1,965)   0.80 x
    tf.data, antialiased    792    (774 ..   819)   1.76 x

The goal was 2 x PyTorch and 1.2 x tf.data, and is not reached. Of the 1.20 ms that a picture costs us on one core, 0.93
are libjpeg-turbo's, most of them for the entropy code; other decoders that were tried are no faster. tf.data leaves out
the colours and pixels beside the part, which simplejpeg cannot, and does not filter.

All read the same files in random order, cut a random part out of each picture (8 to 100 % of its area, 3:4 to 4:3),
resize it to 224 x 224, mirror half of them, and deliver batches of 64 with labels, by two workers on two cores.

- Ours is what a streaming run uses: `TrainingBatchLoader` through `workers.arrays`. A run mirrors on the device, where
  that costs the host nothing; here the process that takes the batches does it, so that all do the same work.
- PyTorch's transforms are those of torchvision, written out: PIL decodes all of a picture, then cuts and resizes it in
  one call. It is spared torchvision's slower draws, and the transpose to [3, height, width].
- tf.data decodes no more than the part that is cut out. Its random parts are a little smaller: of pictures of 500 x 375
  they take 35 % of the area on average, the others' 41 %. As its ImageNet recipes do, it resizes without a filter
  against aliasing, which the other two apply; with one, for the same quality, it is measured as well.

Each measurement has a process of its own, all on the same cores, and begins after the first batches. Files come from
the page cache. The feeds take turns, in rounds: what else the machine does meets all of them.

Below the comparison stands where our time goes: the real code in one process, with a clock around each of its parts.
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
from resnet_jax.errors import UserError
from resnet_jax.terminal import table

PICTURES = flags.DEFINE_string("pictures", None, "A folder with a directory of JPEGs for each class.")
COUNT = flags.DEFINE_integer("count", 2000, "Files to read, the folder's again and again; so many are timed.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Pictures a batch.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each feed.", 1)
CORES = flags.DEFINE_integer("cores", 2, "Cores for all processes of a feed together, and its number of workers.", 1)
OUTPUT = flags.DEFINE_string("output", "benchmarks/results.jsonl", "Where a line with all figures is added.")

OURS = "ours"
SIZE = 224
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
WARM_UP = 16  # batches: more than any of the feeds has ready, so that none begins with a stock
ENDLESS = 10**9  # more than anyone waits for: nothing may end while it is timed
JPEG = b"\xff\xd8\xff"  # how the files begin
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
    from resnet_jax.runtime import provenance  # It imports JAX, which the processes that measure others do without.

    _pin(CORES.value)
    made = provenance.describe()
    distributions = metadata.packages_distributions()
    versions = {name: metadata.version(distributions[name][0]) for name in VERSIONS_OF if name in distributions}
    for name, (module, _) in FEEDS.items():
        if module not in versions:
            print(f"{name} is left out: {module} is not installed")
    feeds = [name for name, (module, _) in FEEDS.items() if module in versions]
    with tempfile.TemporaryDirectory() as folder:
        files = _fill(folder, PICTURES.value, COUNT.value)
        megabytes = sum(map(os.path.getsize, files)) / 1e6
        print(f"{made['machine']}, {CORES.value} cores; {len(files):,} JPEGs, {megabytes:,.0f} MB", flush=True)
        rates = _take_turns(feeds, folder)
        costs = _apart(stage_costs, folder, BATCH_SIZE.value, COUNT.value)
    medians = {name: statistics.median(of) for name, of in rates.items()}
    ratios = {name: medians[OURS] / median for name, median in medians.items()}
    _print(rates, medians, ratios, costs)
    if OUTPUT.value:
        settings = {flag.name: flag.value for flag in (COUNT, BATCH_SIZE, ROUNDS, CORES)}
        settings["pictures"] = os.path.basename(os.path.normpath(PICTURES.value))
        figures = {"images_per_second": rates, "median": medians, "ours_is_faster": ratios, "milliseconds": costs}
        with open(OUTPUT.value, "a") as file:
            line = {"benchmark": "input_pipeline", **made, "versions": versions, **settings, "megabytes": megabytes}
            file.write(json.dumps({**line, **figures}) + "\n")
        print(f"\nadded to {OUTPUT.value}")


def images_per_second(name: str, folder: str, batch_size: int, count: int, cores: int) -> float:
    """How fast a feed delivers at least `count` pictures, once it runs."""
    batches = FEEDS[name][1](folder, batch_size, cores)
    for _ in range(WARM_UP):
        images, labels = (np.asarray(part) for part in next(batches))
    if (images.shape, images.dtype) != ((batch_size, SIZE, SIZE, 3), np.uint8) or labels.shape != (batch_size,):
        raise RuntimeError(f"{name} gives {images.dtype} {images.shape} with labels {labels.shape}")
    timed = math.ceil(count / batch_size)
    start = time.perf_counter()
    for _ in range(timed):
        next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    return timed * batch_size / seconds


def ours(folder: str, batch_size: int, cores: int) -> Iterator[Batch]:
    from resnet_jax.data import workers

    batches_of = _training_batches(folder, batch_size)
    draws = np.random.default_rng(0)
    with workers.arrays(batches_of, range(ENDLESS), batches_of.shape, cores) as batches:
        for images, rows in batches:
            for row in np.flatnonzero(draws.random(batch_size) < 0.5):
                images[row] = cv2.flip(images[row], 1)
            yield images, rows.labels


def pytorch(folder: str, batch_size: int, cores: int) -> Iterator[Batch]:
    from torch.utils.data import DataLoader, RandomSampler

    pictures = TorchPictures(_source(folder))
    sampler = RandomSampler(pictures, num_samples=ENDLESS)
    yield from DataLoader(
        pictures, batch_size, sampler=sampler, num_workers=cores, persistent_workers=True, prefetch_factor=2
    )


class TorchPictures:
    """A data set as PyTorch's loader takes it, with torchvision's transforms for training."""

    def __init__(self, source: FolderSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[object, int]:
        import torch

        picture = Image.open(self._source.name(index)).convert("RGB")
        top, left, height, width = crops.random_box(
            picture.height, picture.width, torch.rand(crops.NUM_DRAWS).numpy(), SCALE, RATIO
        )
        box = (left, top, left + width, top + height)
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
        if torch.rand(()) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(picture)), int(self._source.labels[index])


def tf_data(folder: str, batch_size: int, cores: int, antialias: bool = False) -> Iterator[Batch]:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # Or it greets with a warning about what nothing here uses.
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


# By name: the module that it needs, and batches without end, of uint8 [batch, height, width, 3] and of labels [batch].
FEEDS: dict[str, tuple[str, Callable[[str, int, int], Iterator[Batch]]]] = {
    OURS: ("grain", ours),
    "PyTorch": ("torch", pytorch),
    "tf.data": ("tensorflow", tf_data),
    "tf.data, antialiased": ("tensorflow", functools.partial(tf_data, antialias=True)),
}


def stage_costs(folder: str, batch_size: int, count: int) -> dict[str, float]:
    """What a picture costs us in each stage, in milliseconds of one core."""
    from resnet_jax.data import host_batches, workers

    stages = {
        "read the file": (FolderSource, "__getitem__"),
        "open its head": (decode.ImageFile, "__init__"),
        "draw a part": (host_batches.TrainingBatchLoader, "_box"),
        "decode": (decode.ImageFile, "pixels"),
        "cut and resize": (crops, "resize"),
    }
    cv2.setNumThreads(0)  # As in a worker.
    batches_of = _training_batches(folder, batch_size)
    images = np.empty(batches_of.shape, np.uint8)
    batches_of(0, images)  # What is made once, such as the order of an epoch, is not counted.
    seconds: Counter[str] = Counter()
    steps = range(1, 1 + math.ceil(count / batch_size))
    with contextlib.ExitStack() as clocks:
        for stage, (owner, name) in stages.items():
            clocks.enter_context(mock.patch.object(owner, name, _clocked(getattr(owner, name), stage, seconds)))
        start = time.perf_counter()
        for step in steps:
            batches_of(step, images)
        elapsed = time.perf_counter() - start
    seconds["all else"] = elapsed - seconds.total()
    with workers.arrays(_leave_as_it_is, range(ENDLESS), batches_of.shape, num_workers=1) as batches:
        for _ in range(WARM_UP):
            next(batches)
        start = time.perf_counter()
        for _ in steps:
            next(batches)
        seconds["hand over"] = time.perf_counter() - start
    return {stage: 1000 * taken / (len(steps) * batch_size) for stage, taken in seconds.items()}


def _clocked(function: Callable, stage: str, seconds: Counter[str]) -> Callable:
    def clocked(*arguments, **named):
        start = time.perf_counter()
        result = function(*arguments, **named)
        seconds[stage] += time.perf_counter() - start
        return result

    return clocked


def _leave_as_it_is(number: int, images: np.ndarray) -> None:
    """The work of a worker that has none."""


def _training_batches(folder: str, batch_size: int):
    from resnet_jax.data.host_batches import ExampleLoader, TrainingBatchLoader
    from resnet_jax.data.subset import Subset

    loader = ExampleLoader(Subset.from_split({"train": _source(folder)}, "train"), (SIZE, SIZE, 3), resized=True)
    return TrainingBatchLoader(loader, batch_size, np.arange(batch_size), seed=0, scale=SCALE)


def _source(folder: str) -> FolderSource:
    return open_folder(folder)["train"]


def _fill(folder: str, pictures: str, count: int) -> list[str]:
    """Copies JPEGs into directories of their classes, again and again until there are `count`; returns their paths."""
    found = (
        (source.name(index), source.classes[source.labels[index]])
        for source in open_folder(pictures).values()
        for index in range(len(source))
    )
    jpegs = ((path, class_name) for path, class_name in found if _is_jpeg(path))
    copies = []
    for number, (path, class_name) in enumerate(itertools.islice(itertools.cycle(jpegs), count)):
        os.makedirs(os.path.join(folder, class_name), exist_ok=True)
        copies.append(shutil.copy(path, os.path.join(folder, class_name, f"{number}.jpg")))
    if not copies:
        raise UserError(f"there is no JPEG in {pictures}: give --pictures a folder of them")
    return copies


def _is_jpeg(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(JPEG)) == JPEG


def _pin(cores: int) -> None:
    """Keeps this process and those that it starts on so many cores."""
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("this benchmark keeps its processes on chosen cores, which needs Linux")
    allowed = sorted(os.sched_getaffinity(0))
    if cores > len(allowed):
        raise UserError(f"--cores={cores} are more than the {len(allowed)} that this process may use")
    os.sched_setaffinity(0, allowed[:cores])


def _apart(function: Callable, *arguments):
    """What a function returns in a new process, which knows nothing of others."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _take_turns(feeds: list[str], folder: str) -> dict[str, list[float]]:
    """Images a second of each feed in each round."""
    rates: dict[str, list[float]] = {name: [] for name in feeds}
    for number in range(1, 1 + ROUNDS.value):
        for name, of in rates.items():
            of.append(_apart(images_per_second, name, folder, BATCH_SIZE.value, COUNT.value, CORES.value))
        print(f"round {number}: " + ", ".join(f"{name} {of[-1]:,.0f}" for name, of in rates.items()), flush=True)
    return rates


def _print(
    rates: dict[str, list[float]], medians: dict[str, float], ratios: dict[str, float], costs: dict[str, float]
) -> None:
    rows = [
        (name, round(medians[name]), f"{min(of):,.0f} .. {max(of):,.0f}", f"{ratios[name]:.2f} x")
        for name, of in rates.items()
    ]
    print("\n" + table(rows, header=("feed", "images/s", "of all rounds", "ours is faster")))
    rows = [(stage, f"{cost:.3f}") for stage, cost in costs.items()]
    print("\n" + table([*rows, ("together", f"{sum(costs.values()):.3f}")], header=("stage of ours", "ms a picture")))


if __name__ == "__main__":
    flags.mark_flag_as_required("pictures")
    app.run(main)
