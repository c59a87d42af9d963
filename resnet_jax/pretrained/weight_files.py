"""Files of published weights, read and written as NumPy arrays by name."""

import os
import pathlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes  # noqa: F401  (With it NumPy, and so safetensors, knows bfloat16.)
import numpy as np
import safetensors
import safetensors.numpy

from resnet_jax import files
from resnet_jax.errors import UserError, first_line
from resnet_jax.pretrained import hub

# Types of arrays, by their names in safetensors. Others stand for numbers that only their library knows.
READABLE = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
SAFE_TORCH = (2, 6)  # Before it `weights_only` could be got round: CVE-2025-32434.
COUNTER = "num_batches_tracked"  # The only array of PyTorch's ResNets that is no floating-point numbers.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # what training scripts call their arrays
TARGET = ("weights", ".safetensors")  # what we write, in words and as a file
LONGEST_NAME = 200  # of an array, in characters; errors show names


@dataclass(frozen=True)
class Weights:
    """arrays: float32, by name; metadata: what else is known of them, such as the names of the classes."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read(path: str) -> Weights:
    """Reads a file, without running what code there may be in it.

    A dict that wraps the arrays, such as in `state_dict`, a prefix `module.` of all names and the counters of
    BatchNorm are stripped. Arrays of 16 and 64 bits are converted.

    Args:
      path: of a .safetensors file, or with PyTorch installed of a .pth, .pt, .th or .bin file in either of its formats;
        or hf://owner/name, a repository of huggingface.co.

    Raises:
      UserError: if there is no such file, if it is damaged or holds anything but arrays of `READABLE` types, or if what
        it takes to read or download it is not installed.
    """
    file = hub.download(path) if path.startswith(hub.PREFIX) else pathlib.Path(path).expanduser()
    if file.suffix not in READERS:
        raise UserError(
            f"cannot read weights from {path}: give a run directory, or a file that ends in {', '.join(READERS)}"
        )
    if not os.path.isfile(file):
        problem = "it is a directory" if os.path.isdir(file) else "there is no such file"
        raise UserError(f"cannot read weights from {path} ({problem}): give the path of a file")
    try:
        arrays, metadata = READERS[file.suffix](file)
        return Weights(_tidy(arrays), metadata)
    except UnreadableType as error:
        raise UserError(
            f"cannot read weights from {path} ({error}): have them saved in one of {', '.join(READABLE.values())}"
        ) from error
    except UserError:
        raise
    except Exception as error:  # Of damaged files the libraries raise many types.
        raise UserError(
            f"cannot read weights from {path} ({_diagnosis(file, error)}): get the file again, "
            "or have its arrays saved as .safetensors where it was made"
        ) from error


def check_target(path: str) -> None:
    """Raises `UserError` where `write` could not write."""
    files.check_target(path, *TARGET)


def write(path: str, weights: Weights) -> None:
    """Writes a .safetensors file, wholly or not at all.

    Raises:
      UserError: if the path ends otherwise, or the file cannot be written.
    """
    arrays = {name: np.asarray(array, np.float32) for name, array in weights.arrays.items()}
    files.write_target(path, *TARGET, packed(arrays, weights.metadata))


def packed(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a .safetensors file."""
    # In C order, for safetensors writes the bytes of a transposed array as they lie.
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)


def _read_safetensors(file: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safetensors.safe_open(file, framework="np") as opened:
        names = opened.keys()
        for name in names:
            dtype = opened.get_slice(name).get_dtype()
            _check_type(name, READABLE.get(dtype, dtype))
        return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}


def _read_torch(file: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"reading {file} takes PyTorch: pip install torch, or have its arrays saved as .safetensors"
        ) from None
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE_TORCH:
        raise UserError(
            f"reading {file} takes PyTorch 2.6 or later, as earlier ones may run code that is in a file: "
            "pip install --upgrade torch, or have its arrays saved as .safetensors"
        )
    with warnings.catch_warnings(action="ignore"):  # What matters of a strange file is said in our error.
        content = torch.load(file, map_location="cpu", weights_only=True)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise ValueError("it holds something else than arrays by name")
    for name, tensor in content.items():
        _check_type(name, str(tensor.dtype).removeprefix("torch."))
    # NumPy has no bfloat16 of its own.
    return {name: tensor.detach().float().numpy() for name, tensor in content.items()}, {}


READERS = {".safetensors": _read_safetensors, **dict.fromkeys((".pth", ".pt", ".th", ".bin"), _read_torch)}


class UnreadableType(Exception):
    """Of an array that is no plain floating-point numbers: quantised weights, for example."""


def _check_type(name: str, dtype: str) -> None:
    if dtype not in READABLE.values() and not name.endswith(COUNTER):
        raise UnreadableType(f"its array {name} is of type {dtype}")


def _tidy(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what only training code needs, and in float32."""
    if any(len(name) > LONGEST_NAME or not name.isprintable() for name in arrays):
        raise ValueError("there are arrays in it whose names cannot be printed")
    prefix = "module." if all(name.startswith("module.") for name in arrays) else ""
    arrays = {
        name.removeprefix(prefix): np.asarray(array, np.float32)
        for name, array in arrays.items()
        if not name.endswith(COUNTER)
    }
    if not arrays:
        raise ValueError("there are no arrays in it")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"its array {name} holds values that are not finite")
    return arrays


def _diagnosis(file: pathlib.Path, error: Exception) -> str:
    """What is wrong with the file that gave the error."""
    if isinstance(error, OSError):
        return first_line(error)
    with file.open("rb") as opened:
        start = opened.read(100).lstrip()
    if start.startswith(b"<"):
        return "it is a web page"
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's message advises to load it without protection.
        named = re.search(r"\bGLOBAL ([\w.]{1,200})", str(error))
        objects = f"Python objects such as {named[1]}" if named else "Python objects"
        return f"it {'' if named else 'is damaged, or '}holds {objects}, which are never run"
    return "it is truncated" if isinstance(error, EOFError) else first_line(error).split(". ")[0]
