"""Prove that an exported file computes what the model computes, in the runtime that the file is meant for."""

import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

import jax
import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.export import run_file
from resnet_jax.export.program import Program, class_scores

TOLERANCE = 1e-4  # the largest difference, relative to the largest value of an output


class FileOutputs(NamedTuple):
    """The outputs of a file for n images.

    Attributes:
      arrays: float32 [n, ...] by name.
      seconds: float64 [batches], how long each batch took.
      runtime: the name and version of the runtime.
    """

    arrays: dict[str, np.ndarray]
    seconds: np.ndarray
    runtime: str


class Proof(NamedTuple):
    """A comparison of a file with the model that it was made from.

    Attributes:
      runtime: the name and version of the runtime that ran the file.
      num_images: the number of images.
      differences: by output, the largest difference, relative to the largest absolute value of the output.
      same_top1: the number of images for which both have the same most probable class; None if the file returns neither
        probabilities nor logits.
    """

    runtime: str
    num_images: int
    differences: dict[str, float]
    same_top1: int | None


def run_in_fresh_process(
    path: pathlib.Path, suffix: str, images: np.ndarray, batch_size: int = run_file.BATCH_SIZE
) -> FileOutputs:
    """Run a file on images in a process that does not import this project.

    Args:
      path: the file or directory.
      suffix: the key of its format in `targets.FORMATS`.
      images: uint8 [n, height, width, channels], at least one.
      batch_size: how many of them to run at a time, unless the file has a fixed batch size.

    Raises:
      UserError: if the file cannot be run.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        images_file, outputs_file = os.path.join(folder, "images.npy"), os.path.join(folder, "outputs.npz")
        np.save(images_file, images)
        # -P: Python looks for modules neither in the folder of the script nor in the current one.
        arguments = [suffix, str(path), images_file, outputs_file, str(batch_size)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-P", run_file.__file__, *arguments]
        finished = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
        if finished.returncode:
            reason = (finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"])[-1]
            raise UserError(f"the file does not run in its own runtime ({reason}). Nothing was written.")
        with np.load(outputs_file) as outputs:
            arrays = dict(outputs)
    return FileOutputs(arrays, arrays.pop("seconds"), finished.stdout.splitlines()[-1])


def prove(program: Program, path: pathlib.Path, suffix: str, images: np.ndarray) -> Proof:
    """Compare the outputs of a file with those of its program, image by image.

    Args:
      program: the program.
      path, suffix, images: see `run_in_fresh_process`.

    Raises:
      UserError: if the file cannot be run, if an output differs by more than `TOLERANCE`, or if the model itself
        computes values that are not finite.
    """
    expected = _expected_outputs(program, images)
    for name, array in expected.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"the model computes {name} that are not finite. Nothing was written. Export a model that has not "
                "diverged."
            )
    actual, _, runtime = run_in_fresh_process(path, suffix, images)
    differences = {name: _difference(actual[name], expected[name]) for name in program.outputs}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:  # written so that NaN fails
            raise UserError(
                f"the {name} of the file differ from those of the model by {difference:.1e} of the largest one in "
                f"{runtime}, which is more than {TOLERANCE:.0e}. Nothing was written. Choose another format, and "
                "please report this."
            )
    scores = class_scores(program.outputs)
    same_top1 = int(np.sum(actual[scores].argmax(-1) == expected[scores].argmax(-1))) if scores else None
    return Proof(runtime, len(images), differences, same_top1)


def _expected_outputs(program: Program, images: np.ndarray) -> dict[str, np.ndarray]:
    function = jax.jit(program.function)
    batches = []
    for start in range(0, len(images), run_file.BATCH_SIZE):
        batches.append(jax.device_get(function(images[start : start + run_file.BATCH_SIZE])))
    return {name: np.concatenate([outputs[name] for outputs in batches]) for name in program.outputs}


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest absolute expected value."""
    if actual.shape != expected.shape:
        return np.inf
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
