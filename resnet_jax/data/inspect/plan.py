"""The plan of a run: which examples it would train, validate and test on, and how they would reach the devices."""

import dataclasses

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data import feed_config, splits
from resnet_jax.data.inspect.scan import ScannedDataset, num_pixels
from resnet_jax.data.workers import max_prefetched
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory that the training images take, in bytes.

    Attributes:
      feed: "resident" or "streaming".
      why: the reason for that choice, as a sentence.
      device_bytes: on each device, for all training images or, if they are streamed, for its rows of a batch.
      host_bytes: on this host, for the batches that are ready ahead of time; 0 for a resident feed.
      num_workers: number of worker processes; 0 for a resident feed.
    """

    feed: str
    why: str
    device_bytes: int
    host_bytes: int = 0
    num_workers: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A description of what a run would do with its data.

    Attributes:
      dataset: the `dataset` settings, resolved as far as possible.
      train: positions of the examples of the training split, including those that are held out for validation.
      subsets: positions of the examples for "training", and for "validation" and "test" if there are any.
      memory: None if the run would not start, because no training image can be read or the feed is impossible.
      problems: the reasons why the run would not start, as sentences.
      selected: positions of all examples of the splits that the run uses, including those that cannot be read.
    """

    dataset: ConfigDict
    train: np.ndarray
    subsets: dict[str, np.ndarray]
    memory: Memory | None
    problems: list[str]
    selected: np.ndarray

    def split(self, purpose: str) -> str:
        """Return the split for "training", "validation" or "test", as text."""
        if purpose == "validation" and splits.is_held_out(self.dataset):
            return splits.describe_held_out(self.dataset)
        return splits.configured(self.dataset)[purpose]


def make_plan(config: ConfigDict, scanned: ScannedDataset, mesh: Mesh) -> Plan:
    """Make the decisions that a run makes at its start. Errors that would stop the run are collected, not raised."""
    dataset = config.copy_and_resolve_references().dataset
    subsets, problems = _select_subsets(dataset, scanned)
    train = subsets.get("training", np.arange(0))
    selected = np.concatenate([np.arange(0), *subsets.values()])
    if not len(train):
        return Plan(dataset, train, subsets, None, problems, selected)
    try:
        scored = [scanned.subset.take(subsets[purpose]) for purpose in subsets if purpose != "training"]
        why = feed_config.resolve(dataset, scanned.subset.take(train), mesh, [part for part in scored if len(part)])
    except UserError as error:
        return Plan(dataset, train, subsets, None, [*problems, str(error)], selected)
    if not scanned.readable[train].any():
        return Plan(dataset, train, subsets, None, [*problems, "none of the training images can be read."], selected)
    # A resident feed leaves out unreadable images. A streaming feed trains on a substitute for each.
    if dataset.feed == "resident":
        subsets = {purpose: positions[scanned.readable[positions]] for purpose, positions in subsets.items()}
        train = subsets["training"]
    if splits.is_held_out(dataset):
        try:
            kept, held_out = splits.hold_out_validation(dataset, scanned.records["label"][train])
        except UserError as error:
            problems.append(str(error))
            kept, held_out = np.arange(len(train)), np.arange(0)
        others = {purpose: subsets[purpose] for purpose in subsets if purpose != "training"}
        subsets = {"training": train[kept], "validation": train[held_out], **others}
    memory = _estimate_memory(config.batch_size, dataset, scanned.records[subsets["training"]], why, mesh)
    return Plan(dataset, train, subsets, memory, problems, selected)


def _select_subsets(dataset: ConfigDict, scanned: ScannedDataset) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the positions of the examples by purpose, and the problems of the splits that select them."""
    splits.resolve(dataset, scanned.sizes)
    configured = splits.configured(dataset)
    subsets, problems = {}, []
    for purpose, split in configured.items():
        try:
            subsets[purpose] = scanned.positions(split)
        except UserError as error:
            problems.append(str(error))
    problems += splits.overlaps([configured[purpose] for purpose in subsets], scanned.sizes)
    return subsets, problems


def _estimate_memory(batch_size: int, dataset: ConfigDict, train: np.ndarray, why: str, mesh: Mesh) -> Memory:
    channels = int(train["channels"].max())
    if dataset.feed == "resident":
        return Memory("resident", why, int(num_pixels(train).sum()) * channels)
    image_bytes = channels * (dataset.image_size**2 if dataset.image_size else int(num_pixels(train).max()))
    num_workers = feed_config.num_workers(dataset)
    waiting_images = max_prefetched(num_workers) * len(parallel.local_rows(mesh, batch_size))
    device_bytes = batch_size // mesh.size * image_bytes
    return Memory("streaming", why, device_bytes, waiting_images * image_bytes, num_workers)
