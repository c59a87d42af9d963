"""What a run would do with a data set: which examples it trains and is scored on, and how they reach the devices."""

import dataclasses
import itertools

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data import feed_config, splits
from resnet_jax.data.dataset import VALIDATION_FRACTION
from resnet_jax.data.inspect.scan import Looked, pixels
from resnet_jax.data.workers import max_prefetched
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class Memory:
    """How training pictures reach the devices, and what they take there.

    Attributes:
      feed: "resident" or "streaming".
      why: that choice, in a sentence.
      device_bytes: on each device, of the whole set or of its part of a batch.
      host_bytes: on this host, of batches that wait for their turn; 0 for a resident feed.
      num_workers: processes that make the batches; 0 for a resident feed.
    """

    feed: str
    why: str
    device_bytes: int
    host_bytes: int = 0
    num_workers: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run as its settings describe it.

    Attributes:
      dataset: the settings, with what they leave open filled in as far as it is known.
      train: positions of the examples of the training split, with those that are held out of it for validation.
      parts: positions of the examples for "training", and those for "validation" and "test" if there are any.
      memory: None where the feed cannot be told.
      problems: why the run would not start, in sentences.
    """

    dataset: ConfigDict
    train: np.ndarray
    parts: dict[str, np.ndarray]
    memory: Memory | None
    problems: list[str]

    def split(self, part: str) -> str:
        """What the examples of a part are called."""
        if part == "validation" and not self.dataset.validation_split:
            return f"{VALIDATION_FRACTION:.0%} of {self.dataset.train_split}"
        return self.dataset["train_split" if part == "training" else f"{part}_split"]


def make_plan(config: ConfigDict, looked: Looked, mesh: Mesh) -> Plan:
    """Takes the decisions that a run takes at its start, and goes on where that would stop."""
    dataset = config.copy_and_resolve_references().dataset
    parts, problems = _parts(dataset, looked)
    train = parts.get("training", np.arange(0))
    if not len(train):
        return Plan(dataset, train, parts, None, problems)
    try:
        why = feed_config.resolve(dataset, looked.selection.take(train), mesh)
    except UserError as error:
        return Plan(dataset, train, parts, None, [*problems, str(error)])
    if dataset.feed == "resident":  # It leaves out what cannot be read, where a stream has something in its place.
        parts = {part: positions[looked.readable[positions]] for part, positions in parts.items()}
        train = parts["training"]
    if not dataset.validation_split:
        kept, held_out = splits.hold_out(looked.records["label"][train], VALIDATION_FRACTION)
        rest = {part: parts[part] for part in parts if part != "training"}
        parts = {"training": train[kept], "validation": train[held_out], **rest}
        if not len(held_out):
            problems.append(f"{len(train):,} training examples are too few to hold out a tenth of each for validation")
    memory = _memory(config.batch_size, dataset, looked.records[parts["training"]], why, mesh)
    return Plan(dataset, train, parts, memory, problems)


def _parts(dataset: ConfigDict, looked: Looked) -> tuple[dict[str, np.ndarray], list[str]]:
    """Positions by part of the run, and what is wrong with the splits that name them."""
    splits.resolve(dataset, looked.sizes)
    named = {"training": dataset.train_split, "validation": dataset.validation_split, "test": dataset.test_split}
    parts, problems = {}, []
    for part, split in named.items():
        if split not in ("", "none"):
            try:
                parts[part] = looked.positions(split)
            except UserError as error:
                problems.append(str(error))
    for one, other in itertools.combinations(parts, 2):
        try:
            splits.check_disjoint(named[one], named[other], looked.sizes)
        except UserError as error:
            problems.append(str(error))
    return parts, problems


def _memory(batch_size: int, dataset: ConfigDict, train: np.ndarray, why: str, mesh: Mesh) -> Memory:
    channels = int(train["channels"].max())
    if dataset.feed == "resident":
        return Memory("resident", why, int(pixels(train).sum()) * channels)
    picture = channels * (dataset.image_size**2 if dataset.image_size else int(pixels(train).max()))
    num_workers = feed_config.num_workers(dataset)
    waiting = max_prefetched(num_workers) * len(parallel.local_rows(mesh, batch_size))
    return Memory("streaming", why, batch_size // mesh.size * picture, waiting * picture, num_workers)
