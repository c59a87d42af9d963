"""Streaming: workers read and decode examples while the devices compute, for datasets that are too large for memory."""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data import workers
from resnet_jax.data.crops import Box, center_square
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.feed import Batch, check_batch_size
from resnet_jax.data.host_batches import BatchInfo, EvaluationBatchLoader, ExampleLoader, TrainingBatchLoader
from resnet_jax.data.sampling import Sampler
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter

STEPS_BETWEEN_CHECKS = 50  # see `_check_unreadable`


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


class StreamingFeed:
    """A training split that is read while it is used; implements `feed.Feed`.

    Args:
      loader: loads the examples.
      batch_size, sampler, scale: see `TrainingBatchLoader`.
      num_epochs: number of epochs of the run, after which the batches end.
      num_workers: number of processes that decode; 0 uses threads of this process.
      mesh: the devices; each process loads the rows of a batch that its devices hold.
      reporter: registers the images that cannot be read.
    """

    supports_several_steps = False  # Each step has its own inputs.

    def __init__(
        self,
        loader: ExampleLoader,
        batch_size: int,
        sampler: Sampler,
        scale: tuple[float, ...],
        num_epochs: int,
        num_workers: int,
        mesh: Mesh,
        reporter: Reporter,
    ):
        check_batch_size(batch_size, sampler.size)
        self.image_shape = loader.shape
        self.crops_on_host = loader.resized and bool(scale)
        self.size = len(loader.subset)
        self.steps_per_epoch = sampler.size // batch_size
        rows = parallel.local_rows(mesh, batch_size)
        self._load_batch = TrainingBatchLoader(loader, batch_size, rows, sampler, scale)
        self._total_steps = num_epochs * self.steps_per_epoch
        self._num_workers, self._mesh, self._reporter = num_workers, mesh, reporter
        self._running_workers = contextlib.ExitStack()
        self._next_step: int | None = None
        self._last_inputs: Batch  # The inputs of step `_next_step` - 1.
        self._last_positions: np.ndarray  # The positions of the same step.

    def on_device(self, device: jax.Device) -> "StreamingFeed":
        """Return a feed of the same examples, with workers of its own, for a single device of this process."""
        feed = copy.copy(self)
        feed._mesh, feed._next_step, feed._running_workers = parallel.make_mesh([device]), None, contextlib.ExitStack()
        feed._load_batch = dataclasses.replace(self._load_batch, rows=np.arange(self._load_batch.batch_size))
        return feed

    def inputs(self, step: int) -> Batch:
        """Return the batch of `step`; its transfer to the devices overlaps with earlier steps.

        If steps are requested in order, workers load their batches ahead of time. The step that was requested last may
        be requested again. Any other step restarts the workers at that step.
        """
        if self._next_step == step + 1:
            return self._last_inputs
        if self._next_step != step:
            self.close()
            steps = range(step, self._total_steps)
            streaming = workers.arrays(self._load_batch, steps, self._load_batch.shape, self._num_workers)
            self._batches = self._running_workers.enter_context(streaming)
        images, info = next(self._batches)
        self._last_positions = info.positions
        self._reporter.add_unreadable(info.problems)
        _check_unreadable(self._reporter, step)
        arrays = images, info.labels, info.positions.astype(np.int32)
        placed = parallel.place_rows(arrays, self._mesh, self._load_batch.batch_size)
        self._next_step, self._last_inputs = step + 1, Batch(*placed)
        return self._last_inputs

    @property
    def max_prefetched(self) -> int:
        """The number of batches that may be ready before they are requested."""
        return workers.max_prefetched(self._num_workers)

    def positions(self, step: int) -> np.ndarray:
        """Return which training examples this process loaded for `step`: int64 [rows].

        `step` must be the step that was requested last. In place of an unreadable example, its substitute is returned.
        """
        if self._next_step != step + 1:
            raise ValueError(f"step {step} is not the step whose batch was requested last")
        return self._last_positions

    def abstract_inputs(self) -> Batch:
        """Return the shapes, dtypes and shardings of `inputs`."""
        return abstract_inputs(self.image_shape, self._load_batch.batch_size, self._mesh)

    def streamed_inputs(self) -> Batch:
        """Return the same as `abstract_inputs`, because each step has its own batch."""
        return self.abstract_inputs()

    def take(self, inputs: Batch, step: jax.Array) -> Batch:
        """Return the batch of `step`, under `jax.jit`."""
        return inputs

    def close(self) -> None:
        """Stop the workers."""
        self._running_workers.close()
        self._next_step = None


def abstract_inputs(image_shape: tuple[int, int, int], batch_size: int, mesh: Mesh) -> Batch:
    """Return the shapes, dtypes and shardings of a batch."""
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), np.uint8)
    numbers = jax.ShapeDtypeStruct((batch_size,), np.int32)
    shapes = Batch(images, labels=numbers, positions=numbers)  # type: ignore[arg-type]  # shapes in place of arrays
    return parallel.abstract(shapes, parallel.batch_sharded(mesh))


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StreamedExamples:
    """Examples that are read while they are scored; implements `feed.EvaluationData`.

    Attributes:
      loader: loads the examples.
      resize: see `EvaluationBatchLoader`.
      num_workers: number of processes that decode; 0 uses threads of this process.
      reporter: registers the images that cannot be read. With None they are only listed in `BatchInfo.problems`, and
        any number of them is accepted.
    """

    loader: ExampleLoader
    resize: int | None
    num_workers: int
    reporter: Reporter | None

    def __len__(self) -> int:
        return len(self.loader.subset)

    @property
    def subset_positions(self) -> np.ndarray:
        """All positions of the subset, int64 [n], including unreadable images: these are found only while reading."""
        return np.arange(len(self))

    def batches(self, batch_size: int, rows: np.ndarray) -> Iterator[tuple[np.ndarray, BatchInfo]]:
        """Iterate over all examples in order; see `feed.EvaluationData.batches`."""
        load_batch = EvaluationBatchLoader(self.loader, batch_size, rows, self.resize)
        numbers = range(math.ceil(len(self) / batch_size))
        num_workers = workers.useful_workers(self.num_workers, len(self))
        with workers.arrays(load_batch, numbers, load_batch.shape, num_workers) as batches:
            for number, (images, info) in enumerate(batches, start=1):
                if self.reporter:
                    self.reporter.add_unreadable(info.problems)
                    _check_unreadable(self.reporter, number)
                yield images, info
        if self.reporter:
            _check_unreadable(self.reporter)

    def images_at(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at these positions as they are scored: uint8 [n, height, width, channels]."""
        choose_box = EvaluationBatchLoader(self.loader, 1, np.zeros(1), self.resize).choose_box
        images = np.zeros((len(positions), *self.loader.shape), np.uint8)
        for image, position in zip(images, positions, strict=True):
            with contextlib.suppress(Unreadable):  # A file that became unreadable after it was scored stays black.
                image[:], _ = self.loader(int(position), choose_box)
        return images

    def box(self, height: int, width: int) -> Box:
        """Return the region of an image of this size that is scored."""
        if self.resize is None:
            return Box(0, 0, height, width)
        return center_square(height, width, self.resize, self.loader.shape[0])

    def content_digest(self) -> str:
        """Return the hash of the subset; see `Subset.content_digest`."""
        return self.loader.subset.content_digest()


def _check_unreadable(reporter: Reporter, step: int = 0) -> None:
    """Raise `UserError` if too many images cannot be read.

    Several processes count the distinct images that any of them could not read, at every step that is a multiple of
    `STEPS_BETWEEN_CHECKS`. So all of them raise at the same step; otherwise some would wait for the others forever.
    """
    if jax.process_count() == 1:
        reporter.check_unreadable()
    elif step % STEPS_BETWEEN_CHECKS == 0:
        reporter.check_unreadable(parallel.count_distinct(reporter.unreadable))
