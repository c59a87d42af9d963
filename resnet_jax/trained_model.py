"""A trained network, ready for use, and how it is read from its run directory."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data import feed_config
from resnet_jax.data.folder import UnlabelledImages
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError
from resnet_jax.models import factory
from resnet_jax.runtime import parallel
from resnet_jax.workdir.workdir import WorkDir

MOST_A_DEVICE = 64  # pictures in a call


class Outputs(NamedTuple):
    """What a network makes of n pictures.

    probabilities: float32 [n, classes]; features: float32 [n, width], what the head is applied to; problems: why a
    picture could not be read, by its place among the n, where the numbers of its row mean nothing.
    """

    probabilities: np.ndarray
    features: np.ndarray
    problems: dict[int, str]


class Predictions(NamedTuple):
    """What n pictures are taken to be.

    probabilities: float32 [n, classes]; labels: int32 [n], the likeliest class; names: what it is called.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained network: of a run directory the best on validation, or the last where there is no validation.

    Attributes:
      config: the resolved settings.
      classes: the names of the classes, by label.
      model: the Linen module.
      variables: `{"params": ..., "batch_stats": ...}`, replicated over `mesh`; of a run with averages, these.
      preprocess: uint8 [batch, height, width, channels] to what `model` takes.
      step: the steps that had been taken; None for published weights.
      mesh: the devices.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    model: nn.Module
    variables: dict
    preprocess: Preprocess
    step: int | None
    mesh: Mesh

    def predict(self, images: np.ndarray | Sequence[str | os.PathLike]) -> Predictions:
        """Tells what is in pictures, in this process alone.

        They may be of any number and size: of each the part is taken, and resized, that evaluation would look at. Calls
        with other numbers of pictures share a few compiled programs.

        Args:
          images: uint8 [n, height, width, channels] with 1 or 3 channels, or paths of picture files.

        Raises:
          UserError: for a file that cannot be read, and for pictures that the network cannot be fed.
        """
        if isinstance(images, np.ndarray | jax.Array):
            examples = self._in_memory(np.asarray(images))
        else:
            images = [images] if isinstance(images, str | os.PathLike) else list(images)
            examples = self.examples(images)
        found = [np.empty((0, len(self.classes)), np.float32)]
        for outputs in self.outputs(examples):
            for place, reason in outputs.problems.items():
                raise UserError(f"{images[sum(map(len, found)) + place]} cannot be read: {reason}")
            found.append(outputs.probabilities)
        probabilities = np.concatenate(found)
        labels = probabilities.argmax(axis=-1).astype(np.int32)
        return Predictions(probabilities, labels, tuple(self.classes[label] for label in labels))

    def examples(self, files: Sequence[str | os.PathLike | bytes], num_workers: int = 0) -> StreamedExamples:
        """Picture files, by path or as their bytes, to be read as they are needed, by so many processes or by threads.

        Raises:
          UserError: for a run on pictures that are no squares, which takes them as they are, if none can be read.
        """
        return self._given(UnlabelledImages(files, channels=len(self.preprocess.mean)), num_workers)

    def outputs(self, examples: InMemoryExamples | StreamedExamples) -> Iterator[Outputs]:
        """What comes out for all of them, in order, a batch at a time: the pixels of a few batches are held at once.

        Raises:
          UserError: if the network lies on devices of other processes too.
        """
        if len(self.mesh.local_devices) < self.mesh.size:
            raise UserError(
                "this network lies on the devices of several processes, and predicts in one: load it with "
                "load_run(workdir, parallel.make_mesh(jax.local_devices()))"
            )
        batch_size = self._batch_size(len(examples))
        unfinished = collections.deque()
        for images, rows in examples.batches(batch_size, parallel.local_rows(self.mesh, batch_size)):
            images = parallel.place_rows(images, self.mesh, batch_size)
            unfinished.append((rows, self._forward(self.variables, images)))
            if len(unfinished) > parallel.CALLS_AHEAD:
                yield _fetch(*unfinished.popleft())
        while unfinished:
            yield _fetch(*unfinished.popleft())

    @functools.cached_property
    def _forward(self):
        """Probabilities and features, compiled once for each shape of the pictures."""

        def forward(variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, features = self.model.apply(variables, self.preprocess(images), train=False, return_features=True)
            return jax.nn.softmax(logits), features["pooled"]

        return parallel.jit(forward, self.mesh)

    def _batch_size(self, count: int) -> int:
        """Pictures a call: of each device a power of two, so that few programs are compiled, whatever `count` is."""
        devices = self.mesh.size
        needed = -(-max(count, 1) // devices)
        return devices * min(1 << (needed - 1).bit_length(), -(-self.config.batch_size // devices), MOST_A_DEVICE)

    def _in_memory(self, images: np.ndarray) -> InMemoryExamples:
        if images.dtype != np.uint8 or images.ndim != 4:
            raise UserError(
                f"pictures are to be uint8 [n, height, width, channels], and these are {images.dtype} "
                f"{list(images.shape)}"
            )
        channels = len(self.preprocess.mean)
        if images.shape[-1] not in (1, channels):  # Grey becomes three channels.
            kind = "grey pictures, of 1 channel" if channels == 1 else f"pictures of {channels} channels"
            raise UserError(f"this network takes {kind}, and these have {images.shape[-1]}")
        positions = np.arange(len(images))
        if len(images):
            # At once and here: what reads ahead takes longer to start than a few pictures need.
            images = self._given(UnlabelledImages(images, images.shape[-1]), num_workers=0).images_at(positions)
        return InMemoryExamples(images, np.zeros(len(images), np.int32), positions)

    def _given(self, source: UnlabelledImages, num_workers: int) -> StreamedExamples:
        selection = Subset({"": source}, np.zeros(len(source), np.int64), np.arange(len(source)))
        # No reporter: `Outputs.problems` tells the caller which images cannot be read.
        return feed_config.given_examples(self.config.dataset, selection, num_workers, reporter=None)


def load_run(workdir: str, mesh: Mesh | None = None) -> TrainedModel:
    """Reads the chosen checkpoint of a run directory onto all devices, whatever devices it was trained on.

    Raises:
      UserError: if `workdir` is no run directory, has no checkpoint yet, or holds a damaged one.
    """
    directory = WorkDir(workdir)
    config, classes = directory.config(), directory.classes()
    model = factory.from_config(config, len(classes))
    mesh = mesh or parallel.make_mesh()
    variables = parallel.abstract(abstract_variables(model, len(config.dataset.mean)), parallel.replicated(mesh))
    keep, best_metric = config.checkpoint.keep, config.checkpoint.best_metric
    with directory.open_checkpoints(keep, best_metric, read_only=True) as checkpoints:
        step = checkpoints.chosen_step()
        if step is None:
            raise UserError(f"{directory.path} has no checkpoint yet: train it first")
        if config.ema_decay is None:
            variables, _ = checkpoints.restore(step, variables)
        else:
            items, _ = checkpoints.restore(step, {"ema": {"batch_stats": {}, **variables}})
            variables = items["ema"]
    return TrainedModel(config, classes, model, variables, Preprocess.from_config(config.dataset), step, mesh)


def abstract_variables(model: nn.Module, channels: int) -> dict:
    """Shapes and types of the variables of a network for pictures of so many channels."""
    images = jnp.zeros((1, 32, 32, channels))  # Any height and width give the same.
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def _fetch(rows, outputs: tuple[jax.Array, jax.Array]) -> Outputs:
    """Of a batch what there is, without what it was filled up with."""
    count = np.count_nonzero(rows.positions != NO_LABEL)
    probabilities, features = (part[:count] for part in parallel.fetch(outputs))
    unreadable = np.flatnonzero(rows.labels[:count] == NO_LABEL).tolist()
    reasons = (reason for _, reason in rows.problems)
    return Outputs(probabilities, features, dict(zip(unreadable, reasons, strict=True)))
