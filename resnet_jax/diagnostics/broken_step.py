"""What a run leaves of a step whose loss or gradient was not finite, in `nan/` of its directory.

nan.json             the step, and where in it the first value that is not finite comes up
state.safetensors    the state before it
batch.safetensors    what it was trained on: augmented pictures and labels
"""

import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping
from signal import Signals

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict
from PIL import Image

from resnet_jax import image_grid
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.diagnostics.nan_triage import Part, first_not_finite, triage
from resnet_jax.diagnostics.replay import state_before
from resnet_jax.errors import UserError, first_line
from resnet_jax.models import factory
from resnet_jax.pretrained import weight_files
from resnet_jax.pretrained.load import load_teacher
from resnet_jax.runtime import parallel, provenance
from resnet_jax.terminal import ProgressLine
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.metrics_logger import NotFinite
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import TrainStep
from resnet_jax.workdir.workdir import WorkDir

FOLDER = "nan"
PICTURES_A_ROW = 8


@dataclasses.dataclass(frozen=True)
class BrokenStep:
    """A step that broke, read back, as host arrays.

    Attributes:
      step: how many steps had been taken before it.
      first: where it broke in the run, such as "stage1_block1/conv1"; None if it was finite when it was taken again.
      state: before it, without optimizer state and averages.
      images, labels: the batch, augmented.
    """

    step: int
    first: str | None
    state: TrainState
    images: np.ndarray
    labels: np.ndarray


def capture(
    broken: NotFinite,
    experiment: Experiment,
    directory: WorkDir,
    calls: Mapping[int, TrainStep],
    progress: ProgressLine,
    interrupted: Callable[[], Signals | None],
) -> UserError:
    """Arrives at the broken step once more, and saves what it takes to look into it.

    Until then a run keeps nothing for this: it costs healthy ones neither time nor memory. The other arguments are as
    for `replay.state_before`.

    Returns:
      The error that tells the user all of it.
    """
    remedy = (
        "The checkpoints before it are intact. Start again in a new --workdir, with a lower optimizer.learning_rate, "
        "more schedule.warmup_epochs or optimizer.grad_clip"
    )
    progress.print(f"In step {broken.step:,} {broken.what}. To find out where, the steps before it are taken again ...")
    try:
        state = state_before(broken.step, experiment, directory, calls, progress, interrupted)
        batch = parallel.fetch(experiment.batch(broken.step))
        placed = parallel.place(batch, parallel.batch_sharded(experiment.mesh))
        parts = triage(experiment.config, experiment.model, experiment.preprocess, experiment.teacher, state, *placed)
        first = first_not_finite(parts)
        _save(directory, broken, first and str(first), parallel.fetch(state), batch)
    except (UserError, OSError, jax.errors.JaxRuntimeError) as error:  # The last where memory does not suffice.
        return UserError(f"{broken}; the step could not be looked into ({first_line(error)}). {remedy}")
    where = f"first in {first}" if first else "but taken again it was finite: it hangs on the last bits"
    return UserError(
        f"{broken}, {where}. The state before it and its batch are in {directory.path / FOLDER}, and "
        f"python main.py debug_nan --workdir={directory.path} looks into them. {remedy}"
    )


def load(directory: WorkDir) -> BrokenStep:
    """Reads back what `capture` has saved.

    Raises:
      UserError: if there is nothing, or if it is damaged.
    """
    folder = directory.path / FOLDER
    if not (folder / "nan.json").exists():
        raise UserError(f"{directory.path} holds no step that broke: a run leaves one where its loss is not finite")
    try:
        record = json.loads((folder / "nan.json").read_text())
        arrays, batch = (
            safetensors.numpy.load((folder / name).read_bytes()) for name in ("state.safetensors", "batch.safetensors")
        )
        needed = {name: arrays[name] for name in arrays if name.startswith(("params/", "batch_stats/"))}
        variables = {"batch_stats": {}, **unflatten_dict(needed, sep="/")}
        state = TrainState(np.int32(record["step"]), **variables, opt_state=(), ema={})
        return BrokenStep(record["step"], record["first_not_finite"], state, batch["images"], batch["labels"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{folder} cannot be read ({first_line(error)}): remove it and run the training again, which comes to the "
            "same step"
        ) from error


def take_apart(broken: BrokenStep, config: ConfigDict, classes: tuple[str, ...]) -> list[Part]:
    """Takes the step again, outside its run, on as many devices as share its batch evenly; see `nan_triage.triage`."""
    devices = jax.devices()
    mesh = parallel.make_mesh(devices[: math.gcd(len(devices), len(broken.images))])
    teacher = load_teacher(config, classes, mesh) if config.loss.distill_from else None
    state = parallel.place(broken.state, parallel.replicated(mesh))
    batch = parallel.place((broken.images, broken.labels), parallel.batch_sharded(mesh))
    model, preprocess = factory.from_config(config, len(classes)), Preprocess.from_config(config.dataset)
    return triage(config, model, preprocess, teacher, state, *batch)


def write_pictures(broken: BrokenStep, directory: WorkDir, classes: tuple[str, ...]) -> epath.Path:
    """Writes the pictures of the batch, with their classes, as one PNG; returns its path."""
    png = io.BytesIO()
    Image.fromarray(image_grid.labelled(broken.images, broken.labels, classes, columns=PICTURES_A_ROW)).save(png, "PNG")
    directory.write(f"{FOLDER}/batch.png", png.getvalue())
    return directory.path / FOLDER / "batch.png"


def _save(
    directory: WorkDir, broken: NotFinite, first: str | None, state: TrainState, batch: tuple[np.ndarray, np.ndarray]
) -> None:
    """The record comes last: with it the files of another broken step are not taken for this one's."""
    record = {
        "step": broken.step,
        "message": str(broken),
        "first_not_finite": first,
        "provenance": provenance.describe(),
    }
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.parts)
    arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    directory.remove(f"{FOLDER}/nan.json")
    directory.write(f"{FOLDER}/state.safetensors", weight_files.packed(arrays))
    directory.write(
        f"{FOLDER}/batch.safetensors", weight_files.packed(dict(zip(("images", "labels"), batch, strict=True)))
    )
    directory.write(f"{FOLDER}/nan.json", json.dumps(record, indent=2) + "\n")
