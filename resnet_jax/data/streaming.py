"""The streaming feed: sets too large for memory are decoded by other processes while the device computes."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data import workers
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.feed import check_batch_size
from resnet_jax.data.host_batches import BatchInfo, EvaluationBatches, Loader, TrainingBatches
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter

STEPS_BETWEEN_CHECKS = 50  # where several processes must ask each other


class StreamedInputs(NamedTuple):
    """A batch on the devices, sharded over `data`: uint8 [batch, height, width, channels] and int32 [batch]."""

    images: jax.Array
    labels: jax.Array


class StreamingFeed:
    """A training split that is read as it is needed. The batch of a step is a function of (seed, step) alone.

    An epoch has as many steps as there are whole batches; the few examples left over are others each time.

    Args:
      loader: where examples come from.
      batch_size, seed, scale: as for `TrainingBatches`.
      num_epochs: of the run, after which the batches end.
      num_workers: processes that decode.
      mesh: the devices; each process loads the part of a batch that its devices hold.
      reporter: registers the images that cannot be read.
    """

    supports_several_steps = False  # Each step has inputs of its own.

    def __init__(
        self,
        loader: Loader,
        batch_size: int,
        seed: int,
        scale: tuple[float, ...],
        num_epochs: int,
        num_workers: int,
        mesh: Mesh,
        reporter: Reporter,
    ):
        check_batch_size(batch_size, len(loader.selection))
        self.image_shape = loader.shape
        self.crops_on_host = loader.resized
        self.size = len(loader.selection)
        self.steps_per_epoch = self.size // batch_size
        self._batches = TrainingBatches(loader, batch_size, parallel.local_rows(mesh, batch_size), seed, scale)
        self._total_steps = num_epochs * self.steps_per_epoch
        self._num_workers, self._mesh, self._reporter = num_workers, mesh, reporter
        self._running = contextlib.ExitStack()
        self._next_step: int | None = None
        self._current: StreamedInputs | None = None
        self._positions: np.ndarray | None = None

    def inputs(self, step: int) -> StreamedInputs:
        """The batch of a step; its transfer to the devices goes on while earlier steps run.

        Asked for one step after another, workers have it ready; asked for any other, they start anew there.
        """
        if self._next_step == step + 1:
            return self._current
        if self._next_step != step:
            self.close()
            numbers = range(step, self._total_steps)
            streaming = workers.arrays(self._batches, numbers, self._batches.shape, self._num_workers)
            self._loaded = self._running.enter_context(streaming)
        images, rows = next(self._loaded)
        self._positions = rows.positions
        self._reporter.add_unreadable(rows.problems)
        _check_unreadable(self._reporter, step)
        placed = parallel.place_rows((images, rows.labels), self._mesh, self._batches.batch_size)
        self._next_step, self._current = step + 1, StreamedInputs(*placed)
        return self._current

    @property
    def max_prefetched(self) -> int:
        """How many batches may be ready before they are asked for."""
        return workers.max_prefetched(self._num_workers)

    def positions(self, step: int) -> np.ndarray:
        """Which examples of the training split a step is given, those that this process loads: int64 [rows].

        Of unreadable ones, what takes their place. `step` is the one whose batch was asked for last.
        """
        if self._next_step != step + 1:
            raise ValueError(f"the batch of step {step} is not the last one that was asked for")
        return self._positions

    def abstract_inputs(self) -> StreamedInputs:
        """Shapes, types and places of what `inputs` gives."""
        return abstract_inputs(self.image_shape, self._batches.batch_size, self._mesh)

    def arriving_inputs(self) -> StreamedInputs:
        """Return the same as `abstract_inputs`: each step has a batch of its own."""
        return self.abstract_inputs()

    def take(self, inputs: StreamedInputs, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images and labels of a step, inside a compiled function."""
        return inputs.images, inputs.labels

    def close(self) -> None:
        """Ends the workers."""
        self._running.close()
        self._next_step = None


def abstract_inputs(image_shape: tuple[int, int, int], batch_size: int, mesh: Mesh) -> StreamedInputs:
    """Shapes, types and places of a batch."""
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), np.uint8)
    labels = jax.ShapeDtypeStruct((batch_size,), np.int32)
    return parallel.abstract(StreamedInputs(images, labels), parallel.batch_sharded(mesh))


@dataclasses.dataclass(frozen=True)
class StreamedExamples:
    """Examples to be scored, read as they are needed: the streaming twin of `in_memory.InMemoryExamples`.

    `reporter` registers the images that cannot be read. With None, only `BatchInfo.problems` has them, and any number of
    them is accepted.
    """

    loader: Loader
    resize: int
    num_workers: int
    reporter: Reporter | None

    def __len__(self) -> int:
        return len(self.loader.selection)

    @property
    def subset_positions(self) -> np.ndarray:
        """Their positions in the selection, int64 [n]: all of them, since none is left out before it is read."""
        return np.arange(len(self))

    def batches(self, batch_size: int, rows: np.ndarray) -> Iterator[tuple[np.ndarray, BatchInfo]]:
        """Every example once, in order; of each batch the `rows`, filled up where the examples end."""
        batch_of = EvaluationBatches(self.loader, batch_size, rows, self.resize)
        numbers = range(-(-len(self) // batch_size))
        num_workers = workers.worthwhile(self.num_workers, len(self))
        with workers.arrays(batch_of, numbers, batch_of.shape, num_workers) as batches:
            for number, (images, rows) in enumerate(batches, start=1):
                if self.reporter:
                    self.reporter.add_unreadable(rows.problems)
                    _check_unreadable(self.reporter, number)
                yield images, rows
        if self.reporter:
            _check_unreadable(self.reporter)

    def images_at(self, positions: np.ndarray) -> np.ndarray:
        """Pictures to look at, as they are scored: uint8 [n, height, width, channels]."""
        box = EvaluationBatches(self.loader, 1, np.zeros(1), self.resize).box
        pictures = np.zeros((len(positions), *self.loader.shape), np.uint8)
        for picture, position in zip(pictures, positions, strict=True):
            with contextlib.suppress(Unreadable):  # It was there a moment ago.
                picture[:], _ = self.loader(int(position), box)
        return pictures


def _check_unreadable(reporter: Reporter, step: int = 0) -> None:
    """Stops all processes together where there is too much that cannot be read, or one would wait for the others."""
    if jax.process_count() == 1:
        reporter.check_unreadable()
    elif step % STEPS_BETWEEN_CHECKS == 0:
        reporter.check_unreadable(parallel.total(len(reporter.unreadable)))
