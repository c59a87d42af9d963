"""Writing of the dataset that `decoded` reads, by several processes, so that an interrupted command can resume."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from array_record.python import array_record_module
from etils import epath

from resnet_jax import files
from resnet_jax.data import bit_depth as bit_depths
from resnet_jax.data import crops, workers
from resnet_jax.data.decode import MAX_BIT_DEPTH, ImageFile, Unreadable
from resnet_jax.data.decoded import HEADER, INFO
from resnet_jax.data.folder import canonical_path
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError, first_line
from resnet_jax.terminal import Reporter

IMAGES_PER_TASK = 20  # of a worker process
TASKS_PER_SHARD = 250
SHARD_EXAMPLES = IMAGES_PER_TASK * TASKS_PER_SHARD


class Encoded(NamedTuple):
    """An image as it is written.

    Attributes:
      record: see `decoded`.
      label: its label; `NO_LABEL` if it is unknown.
      problem: the name of the image, and why it could not be read; None if it could.
    """

    record: bytes
    label: int
    problem: tuple[str, str] | None


@dataclasses.dataclass(frozen=True)
class _Encode:
    """Turns images of a subset into records, in a worker process.

    Attributes:
      subset: the images.
      size: pixels of the short side.
      labels: those that the source lists, also for images that cannot be read; None if it lists none.
    """

    subset: Subset
    size: int
    labels: np.ndarray | None

    def __call__(self, task: int) -> list[Encoded]:
        """Return the images of a task."""
        end = min((task + 1) * IMAGES_PER_TASK, len(self.subset))
        return [self._encode(position) for position in range(task * IMAGES_PER_TASK, end)]

    def _encode(self, position: int) -> Encoded:
        label = NO_LABEL if self.labels is None else int(self.labels[position])
        try:
            image, label = self.subset[position]
            pixels = shrink(image, self.subset.channels, self.size, self.subset.bit_depth)
        except Unreadable as error:
            record = np.array([0, 0, 0, label], HEADER).tobytes() + str(error).encode()
            return Encoded(record, label, (self.subset.name(position), str(error)))
        return Encoded(np.array([*pixels.shape, label], HEADER).tobytes() + pixels.tobytes(), label, None)


def shrink(image: np.ndarray | bytes, channels: int, size: int, bit_depth: int = MAX_BIT_DEPTH) -> np.ndarray:
    """Decode an image, and shrink it so that its short side has `size` pixels. A smaller image keeps its size.

    Args:
      image: uint8 [height, width, channels], or the bytes of a file.
      channels: 1 or 3, to which a file is decoded.
      size: in pixels.
      bit_depth: see `ImageFile.pixels`.

    Raises:
      Unreadable: if the file cannot be decoded.

    Example:
      >>> shrink(np.zeros((400, 600, 3), np.uint8), 3, 200).shape
      (200, 300, 3)
    """
    if not isinstance(image, bytes):
        return crops.resize_to(image, *_shrunk(image.shape[0], image.shape[1], size))
    file = ImageFile(image)
    height, width = _shrunk(file.height, file.width, size)
    factor = next(factor for factor in (8, 4, 2, 1) if factor * height <= file.height)
    return crops.resize_to(file.pixels(channels, factor, bit_depth=bit_depth), height, width)


def _shrunk(height: int, width: int, size: int) -> tuple[int, int]:
    scale = min(1.0, size / min(height, width))
    return round(scale * height), round(scale * width)


def write_decoded(
    name: str, sources: Mapping[str, Source], target: str, size: int, num_workers: int, reporter: Reporter
) -> None:
    """Decode all images of a dataset once, and write them to a directory.

    If an earlier start was interrupted, the files that it completed are kept.

    Args:
      name: the name of the dataset; an unfinished directory of another one is not resumed.
      sources: the dataset.
      target: the directory.
      size: pixels of the short side.
      num_workers: the number of processes that decode.
      reporter: shows the progress, and lists the images that cannot be read.

    Raises:
      UserError: if the directory holds something else, or cannot be written, or if too many images cannot be read.
    """
    subsets = {split: Subset.from_split({split: source}, split) for split, source in sources.items() if len(source) > 0}
    first = next(iter(subsets.values()))
    if any(subset.listed_directories() is not None for subset in subsets.values()):
        raise UserError(
            "a decoded dataset cannot record the client of each image. Decode the directory of each client on its own, "
            "as folder:/path/CLIENT."
        )
    bit_depth = bit_depths.measure(subsets.get("train", first))
    info = {
        "origin": name,
        "classes": list(first.classes),
        "label_sets": None if first.label_sets is None else np.asarray(first.label_sets, int).tolist(),
        "size": size,
        "bit_depth": bit_depth,
        "content": {split: [len(subset), subset.content_digest()] for split, subset in subsets.items()},
    }
    folder = epath.Path(canonical_path(target))
    try:
        progress = _Progress(folder, info)
        for entry in progress.shards.values():
            reporter.add_unreadable(entry.get("problems", []))
        show_progress = reporter.counter("decoding images")
        missing = sum(map(len, subsets.values())) - progress.num_images()
        for subset in subsets.values():
            subset.bit_depth = bit_depth
        splits = {}
        for split, subset in subsets.items():
            encode = _Encode(subset, size, subset.listed_labels())
            splits[split] = _write_split(
                folder, split, encode, num_workers, progress, reporter, lambda done: show_progress(done, missing)
            )
        files.write(folder / INFO, json.dumps({**info, "splits": splits}, indent=2) + "\n")
        progress.remove()
    except (OSError, RuntimeError) as error:  # array_record raises a RuntimeError if the disk is full.
        raise UserError(
            f"decoding to {folder} failed ({first_line(error)}). Check the free space and the permissions there and in "
            "the directory for temporary files. The same command resumes."
        ) from error


def _write_split(
    folder: epath.Path,
    split: str,
    encode: _Encode,
    num_workers: int,
    progress: "_Progress",
    reporter: Reporter,
    show_progress: Callable[[int], None],
) -> dict:
    """Write the files of a split that are missing, and return its entry in `decoded.json`."""
    subset = encode.subset
    shards = [f"{split}-{number:05d}.array_record" for number in range(math.ceil(len(subset) / SHARD_EXAMPLES))]
    num_complete = len(list(itertools.takewhile(progress.shards.__contains__, shards)))  # They are written in order.
    tasks = range(num_complete * TASKS_PER_SHARD, math.ceil(len(subset) / IMAGES_PER_TASK))
    with workers.results(encode, tasks, num_workers) as results:
        for shard in shards[num_complete:]:
            images = itertools.chain.from_iterable(itertools.islice(results, TASKS_PER_SHARD))
            progress.add(shard, *_write_shard(folder / shard, images, reporter))
            show_progress(progress.num_images() - progress.num_earlier)
    entries = [progress.shards[shard] for shard in shards]
    labels = [label for entry in entries for label in entry["labels"]]
    files.write(folder / f"{split}.labels.npy", _as_npy(np.array(labels, np.int32)))
    files.write(folder / f"{split}.names.json", json.dumps([subset.name(position) for position in range(len(subset))]))
    return {"channels": subset.channels, "shards": shards, "digests": [entry["digest"] for entry in entries]}


class _Progress:
    """The files that are complete, with their labels and digests, in `progress.jsonl`.

    Args:
      folder: the directory of the dataset.
      info: what is being written; an earlier start must have written the same.

    Attributes:
      shards: `{"labels": [...], "digest": ..., "problems": [...]}` by the name of the file. The problems are pairs of
        the name of an image and the reason why it cannot be read.
      num_earlier: the number of images that earlier starts have written.

    Raises:
      UserError: if the directory holds something else.
    """

    def __init__(self, folder: epath.Path, info: dict):
        self._path = folder / "progress.jsonl"
        self.shards: dict[str, dict] = {}
        if self._path.exists():
            first, *lines = self._path.read_text(encoding="utf-8").splitlines()
            if json.loads(first) != info:
                raise UserError(
                    f"{folder} holds an unfinished dataset with other images or settings. Remove it, or choose another "
                    "--to."
                )
            for line in lines:
                with contextlib.suppress(ValueError):  # The last line may be incomplete.
                    entry = json.loads(line)
                    self.shards[entry.pop("shard")] = entry
            complete = [json.dumps({"shard": shard, **entry}) for shard, entry in self.shards.items()]
            files.write(self._path, "\n".join([first, *complete]) + "\n")
        elif (folder / INFO).exists():
            raise UserError(f"{folder} holds a complete dataset already. Remove it, or choose another --to.")
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty. Remove it, or choose another --to.")
        else:
            files.write(self._path, json.dumps(info) + "\n")
        self.num_earlier = self.num_images()

    def num_images(self) -> int:
        """Return the number of images that have been written."""
        return sum(len(entry["labels"]) for entry in self.shards.values())

    def add(self, shard: str, labels: list[int], digest: str, problems: list[tuple[str, str]]) -> None:
        """Record that a file is complete."""
        self.shards[shard] = {"labels": labels, "digest": digest, "problems": problems}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"shard": shard, **self.shards[shard]}) + "\n")
            files.sync_to_disk(file)

    def remove(self) -> None:
        """Remove the file, because the dataset is complete."""
        self._path.unlink()


def _write_shard(
    path: epath.Path, images: Iterable[Encoded], reporter: Reporter
) -> tuple[list[int], str, list[tuple[str, str]]]:
    """Write records to a file, and return their labels, their hash and their problems; see `_Progress.shards`."""
    labels: list[int] = []
    problems: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    unfinished = path.parent / files.unfinished_name(path.name)
    writer = array_record_module.ArrayRecordWriter(os.fspath(unfinished), "group_size:1,uncompressed")
    try:
        for image in images:
            writer.write(image.record)
            digest.update(image.record)
            labels.append(image.label)
            if image.problem:
                problems.append(image.problem)
                reporter.add_unreadable([image.problem])
                reporter.check_unreadable()
    finally:
        writer.close()
    with open(unfinished, "rb+") as file:
        files.sync_to_disk(file)
    unfinished.replace(path)
    return labels, digest.hexdigest(), problems


def _as_npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()
