"""Load and replay a step that a run saved because the loss or a gradient was not finite; see `training.nan_capture`."""

import dataclasses
import json
import math

import numpy as np
import safetensors.numpy
from etils import epath
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from resnet_jax import image_grid
from resnet_jax.data.abstract_dataset import AbstractFeed
from resnet_jax.data.dataset import Dataset
from resnet_jax.errors import UserError, first_line
from resnet_jax.runtime import parallel
from resnet_jax.training import experiment as experiments
from resnet_jax.training.nan_capture import FOLDER
from resnet_jax.training.nan_triage import StepValue, triage
from resnet_jax.training.state import TrainState
from resnet_jax.workdir.workdir import WorkDir

IMAGES_PER_ROW = 8


@dataclasses.dataclass(frozen=True)
class NonFiniteStep:
    """A saved step whose loss or gradient was not finite, as host arrays.

    Attributes:
      step: the number of steps taken before this one.
      first: the first value of the step that was not finite in the run, such as "stage1_block1/conv1"; None if all
        values were finite when the run replayed the step.
      image_size: with progressive resizing, the size of the images in this step, in pixels; otherwise None.
      class_weights: the factors on the loss by class; None if there were none.
      state: the state before the step, without optimizer state.
      images: augmented images, [batch, height, width, channels] in [0, 255]; in pre-training, [batch, 2, ...].
      labels: int32 [batch], or soft labels float32 [batch, classes].
    """

    step: int
    first: str | None
    image_size: int | None
    class_weights: list[float] | None
    state: TrainState
    images: np.ndarray
    labels: np.ndarray


def load(directory: WorkDir) -> NonFiniteStep:
    """Read the step that a run saved.

    Raises:
      UserError: if the run has saved no step, or if the files of the step are damaged.
    """
    folder = directory.path / FOLDER
    if not (folder / "nan.json").exists():
        raise UserError(
            f"{directory.path} contains no saved non-finite step ({FOLDER}/nan.json is missing). "
            "A run saves one if its loss or gradient is not finite."
        )
    try:
        record = json.loads((folder / "nan.json").read_text(encoding="utf-8"))
        arrays = safetensors.numpy.load((folder / "state.safetensors").read_bytes())
        batch = safetensors.numpy.load((folder / "batch.safetensors").read_bytes())
        needed = {name: arrays[name] for name in arrays if name.startswith(("params/", "batch_stats/", "ema/"))}
        variables = {"batch_stats": {}, "ema": {}, **unflatten_dict(needed, sep="/")}
        step = np.int32(record["step"])  # It and the arrays become `jax.Array`s when they are placed on devices.
        state = TrainState(step, **variables, opt_state=())  # type: ignore[arg-type]
        image_size = record.get("image_size")  # Records of older versions have neither it nor the class weights.
        images, labels = batch["images"], batch["labels"]
        return NonFiniteStep(
            step=record["step"],
            first=record["first_not_finite"],
            image_size=image_size,
            class_weights=record.get("class_weights"),
            state=state,
            images=images,
            labels=labels,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{folder} cannot be read ({first_line(error)}). Remove it and rerun the training, which will reach "
            "the same step again."
        ) from error


def replay(saved_step: NonFiniteStep, config: ConfigDict, classes: tuple[str, ...]) -> list[StepValue]:
    """Take the step again outside its run, and return the statistics of all its values; see `nan_triage.triage`.

    The number of devices used is the greatest common divisor of the number of all devices and the batch size.
    """
    devices = parallel.all_devices()
    batch_size = len(saved_step.images)
    mesh = parallel.make_mesh(devices[: math.gcd(len(devices), batch_size)])
    is_resident = config.dataset.feed == "resident"
    feed = AbstractFeed(saved_step.images.shape[-3:], batch_size, batch_size, mesh, is_resident)
    # A step depends only on whether there are sets of labels, because the labels of the batch are already targets.
    label_sets = np.eye(len(classes), dtype=bool) if config.dataset.multi_label else None
    config = config.copy_and_resolve_references()
    if saved_step.class_weights is not None:  # "balanced" would need the labels of the dataset.
        config.loss.class_weights = ",".join(map(repr, saved_step.class_weights))
    experiment = experiments.assemble(config, mesh, Dataset(feed, None, classes, label_sets))
    state = parallel.place(saved_step.state, parallel.replicated(mesh))
    images, labels = parallel.place((saved_step.images, saved_step.labels), parallel.batch_sharded(mesh))
    return triage(experiment.resizing_to(saved_step.image_size), state, images, labels)


def write_images(saved_step: NonFiniteStep, directory: WorkDir, classes: tuple[str, ...]) -> epath.Path:
    """Write the images of the batch with their classes as one PNG file, and return its path."""
    grid = image_grid.labeled_grid(saved_step.images, saved_step.labels, classes, columns=IMAGES_PER_ROW)
    directory.write(f"{FOLDER}/batch.png", image_grid.as_png(grid))
    return directory.path / FOLDER / "batch.png"
