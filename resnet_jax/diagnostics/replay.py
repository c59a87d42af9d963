"""Load and replay a step that a run saved because its loss or gradient was not finite; see `training.nan_capture`."""

import dataclasses
import io
import json
import math

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict
from PIL import Image

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
class BrokenStep:
    """A saved step whose loss or gradient was not finite, as host arrays.

    Attributes:
      step: how many steps had been taken before it.
      first: the first value that was not finite in the run, such as "stage1_block1/conv1"; None if all were finite when
        the run took the step again.
      state: the state before the step, without optimizer state and averages.
      images: augmented images, [batch, height, width, channels] in [0, 255].
      labels: int32 [batch], or soft labels float32 [batch, classes].
    """

    step: int
    first: str | None
    state: TrainState
    images: np.ndarray
    labels: np.ndarray


def load(directory: WorkDir) -> BrokenStep:
    """Read the step that a run saved.

    Raises:
      UserError: if there is none, or if it is damaged.
    """
    folder = directory.path / FOLDER
    if not (folder / "nan.json").exists():
        raise UserError(
            f"{directory.path} contains no saved non-finite step ({FOLDER}/nan.json is missing). "
            "A run saves one if its loss or gradient is not finite."
        )
    try:
        record = json.loads((folder / "nan.json").read_text())
        arrays = safetensors.numpy.load((folder / "state.safetensors").read_bytes())
        batch = safetensors.numpy.load((folder / "batch.safetensors").read_bytes())
        needed = {name: arrays[name] for name in arrays if name.startswith(("params/", "batch_stats/"))}
        variables = {"batch_stats": {}, **unflatten_dict(needed, sep="/")}
        step = np.int32(record["step"])  # Becomes a `jax.Array` when the state is placed on devices.
        state = TrainState(step, **variables, opt_state=(), ema={})  # type: ignore[arg-type]
        return BrokenStep(record["step"], record["first_not_finite"], state, batch["images"], batch["labels"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{folder} cannot be read ({first_line(error)}). Remove it and rerun the training, which will reach "
            "the same step again."
        ) from error


def replay(broken: BrokenStep, config: ConfigDict, classes: tuple[str, ...]) -> list[StepValue]:
    """Take the step again outside its run, and return the statistics of all its values; see `nan_triage.triage`.

    It runs on as many devices as divide its batch evenly.
    """
    devices = jax.devices()
    batch_size = len(broken.images)
    mesh = parallel.make_mesh(devices[: math.gcd(len(devices), batch_size)])
    is_resident = config.dataset.feed == "resident"
    feed = AbstractFeed(broken.images.shape[1:], batch_size, batch_size, mesh, is_resident)
    experiment = experiments.assemble(config, mesh, Dataset(feed, None, classes))
    state = parallel.place(broken.state, parallel.replicated(mesh))
    images, labels = parallel.place((broken.images, broken.labels), parallel.batch_sharded(mesh))
    return triage(experiment, state, images, labels)


def write_images(broken: BrokenStep, directory: WorkDir, classes: tuple[str, ...]) -> epath.Path:
    """Write the images of the batch with their classes as one PNG file, and return its path."""
    grid = image_grid.labeled_grid(broken.images, broken.labels, classes, columns=IMAGES_PER_ROW)
    png = io.BytesIO()
    Image.fromarray(grid).save(png, "PNG")
    directory.write(f"{FOLDER}/batch.png", png.getvalue())
    return directory.path / FOLDER / "batch.png"
