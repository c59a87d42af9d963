"""Milliseconds per random crop of a photograph: our decoder and TensorFlow's decode_and_crop_jpeg, in turns.

    python -m benchmarks.crop_decoders --images=FOLDER    # with JPEG files, also in subfolders

Both decode the same crops (8 to 100 % of the area, aspect ratio 3:4 to 4:3) and resize them to 224 x 224 with the same
function, on one core. Ours decodes the rows above the lower edge of the crop, at a half, a quarter or an eighth of the
size if that leaves enough pixels. TensorFlow's decodes only the crop, at full size, with its most exact settings.

RESULT, 2026-12-01, commit 2dd6d3a, one of 2 cores of an AMD EPYC (cpu family 25, model 17), busy with other work,
TensorFlow 2.21, 190 photographs of ants and bees of about 500 x 375 pixels, median of 9 rounds (lowest .. highest):

    ours                  1.175 ms  (1.167 .. 1.279)
    decode_and_crop_jpeg  1.407 ms  (1.325 .. 1.488)   ours is 1.18 x as fast

Pixels differ by 0.04 of 255 levels on average, and by up to 66. TensorFlow's decoder is not faster, so the feed
does not use it.
"""

import functools
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from absl import app, flags

from resnet_jax.data import crops, host_batches
from resnet_jax.data.decode import ImageFile, read_file
from resnet_jax.terminal import table

IMAGES = flags.DEFINE_string("images", None, "Folder of JPEG files.", required=True)
ROUNDS = flags.DEFINE_integer("rounds", 9, "Number of turns.", lower_bound=1)
SIZE = 224
SCALE = (0.08, 1.0)  # smallest and largest fraction of the area


def main(_: Sequence[str]) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    images = [read_file(path) for path in sorted(pathlib.Path(IMAGES.value).rglob("*.jpg"))]
    if not images:
        sys.exit(f"error: {IMAGES.value} has no .jpg files.")
    draws = np.random.default_rng(0).random((len(images), crops.NUM_DRAWS))
    boxes = [_box(image, row) for image, row in zip(images, draws, strict=True)]
    decoders = {"ours": ours, "decode_and_crop_jpeg": functools.partial(tensorflow, tf.io.decode_and_crop_jpeg)}
    rounds: dict[str, list[float]] = {name: [] for name in decoders}
    for decode in decoders.values():
        _milliseconds(decode, images, boxes)  # warm-up
    for _ in range(ROUNDS.value):
        for name, decode in decoders.items():
            rounds[name].append(_milliseconds(decode, images, boxes))
    differences = np.concatenate([_difference(*pair, decoders.values()) for pair in zip(images, boxes, strict=True)])
    rows = [
        (name, f"{statistics.median(costs):.3f}", f"{min(costs):.3f} .. {max(costs):.3f}")
        for name, costs in rounds.items()
    ]
    print(table(rows, header=(f"decoder, {len(images)} images", "ms per image", "range")))
    ratios = [theirs / own for own, theirs in zip(*rounds.values(), strict=True)]
    print(f"\nours is {statistics.median(ratios):.2f} x as fast")
    print(f"pixels differ by {differences.mean():.2f} of 255 levels on average, and by up to {differences.max()}")


def ours(image: bytes, box: crops.Box) -> np.ndarray:
    return host_batches.load_crop(image, 3, lambda height, width: box, SIZE)


def tensorflow(decode_and_crop: Callable, image: bytes, box: crops.Box) -> np.ndarray:
    window = [box.top, box.left, box.height, box.width]
    return crops.resize(decode_and_crop(image, window, channels=3, dct_method="INTEGER_ACCURATE").numpy(), SIZE)


def _box(image: bytes, draws: np.ndarray) -> crops.Box:
    file = ImageFile(image)
    return crops.random_box(file.height, file.width, draws, SCALE)


def _difference(image: bytes, box: crops.Box, decoders: Iterable[Callable]) -> np.ndarray:
    first, second = (decode(image, box).astype(int) for decode in decoders)
    return np.abs(first - second).reshape(-1)


def _milliseconds(decode: Callable, images: Sequence[bytes], boxes: Sequence[crops.Box]) -> float:
    start = time.perf_counter()
    for image, box in zip(images, boxes, strict=True):
        decode(image, box)
    return 1000 * (time.perf_counter() - start) / len(images)


if __name__ == "__main__":
    app.run(main)
