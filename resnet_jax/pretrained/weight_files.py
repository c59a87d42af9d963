"""Read and write files of published weights, as NumPy arrays by name."""

import os
import pathlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes  # noqa: F401  (It adds bfloat16 to NumPy, and so to safetensors.)
import numpy as np
import safetensors
import safetensors.numpy

from resnet_jax import files
from resnet_jax.errors import UserError, first_line
from resnet_jax.pretrained import hub

# The dtypes that we read, by their names in safetensors. Others need the library that wrote the file.
READABLE = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
SAFE_TORCH = (2, 6)  # Earlier versions could be tricked into running code despite `weights_only`: CVE-2025-32434.
COUNTER = "num_batches_tracked"  # The only kind of array in PyTorch's ResNets that is not floating-point.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # the keys under which training scripts save the arrays
TARGET = ("weights", ".safetensors")  # the description and suffix of the files that we write
LONGEST_NAME = 200  # of an array, in characters, because error messages show names


@dataclass(frozen=True)
class Weights:
    """The content of a file of weights.

    Attributes:
      arrays: float32 arrays by name.
      metadata: further information, such as the names of the classes.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read(path: str) -> Weights:
    """Read a file of weights, without running any code that it may contain.

    If the file holds the arrays under a key such as `state_dict`, everything else in it is ignored. A prefix `module.`
    is removed if all names have it. The counters of BatchNorm are left out. Arrays of 16 and 64 bits are converted to
    float32.

    Args:
      path: a .safetensors file; with PyTorch installed also a .pth, .pt, .th or .bin file in either of PyTorch's
        formats; or hf://owner/name, a repository on huggingface.co.

    Raises:
      UserError: if the file does not exist, is damaged, or holds anything but arrays of the dtypes in `READABLE`; or if
        a package needed to read or download it is not installed.
    """
    file = hub.download(path) if path.startswith(hub.PREFIX) else pathlib.Path(path).expanduser()
    if file.suffix not in READERS:
        raise UserError(
            f"cannot read weights from {path} (unknown suffix). "
            f"Give a run directory, or a file that ends in {', '.join(READERS)}."
        )
    if not os.path.isfile(file):
        problem = "it is a directory" if os.path.isdir(file) else "there is no such file"
        raise UserError(f"cannot read weights from {path} ({problem}). Give the path of a file.")
    try:
        arrays, metadata = READERS[file.suffix](file)
        return Weights(_tidy(arrays), metadata)
    except UnreadableType as error:
        raise UserError(
            f"cannot read weights from {path} ({error}). Save them as one of {', '.join(READABLE.values())}."
        ) from error
    except UserError:
        raise
    except Exception as error:  # For damaged files, the libraries raise exceptions of many types.
        raise UserError(
            f"cannot read weights from {path} ({_diagnosis(file, error)}). Download the file again, "
            "or save its arrays as .safetensors on the machine that created it."
        ) from error


def check_target(path: str) -> None:
    """Check that `write` can write to a path.

    Raises:
      UserError: if it cannot.
    """
    files.check_target(path, *TARGET)


def write(path: str, weights: Weights) -> None:
    """Write a .safetensors file atomically.

    Raises:
      UserError: if the path has another suffix, or the file cannot be written.

    Example:
      >>> import tempfile
      >>> path = f"{tempfile.mkdtemp()}/weights.safetensors"
      >>> write(path, Weights({"fc.bias": np.zeros(2)}, metadata={"classes": "cat, dog"}))
      >>> read(path)
      Weights(arrays={'fc.bias': array([0., 0.], dtype=float32)}, metadata={'classes': 'cat, dog'})
    """
    arrays = {name: np.asarray(array, np.float32) for name, array in weights.arrays.items()}
    files.write_target(path, *TARGET, safetensors_bytes(arrays, weights.metadata))


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Return the content of a .safetensors file with these arrays and metadata."""
    # C order is needed because safetensors writes the memory of a transposed array as it is.
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
            f"reading {file} needs PyTorch. Run: pip install torch. Or save its arrays as .safetensors."
        ) from None
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE_TORCH:
        raise UserError(
            f"reading {file} needs PyTorch 2.6 or later, because earlier versions may run code in a file. "
            "Run: pip install --upgrade torch. Or save its arrays as .safetensors."
        )
    with warnings.catch_warnings(action="ignore"):  # Our own error message says what is wrong with a file.
        content = torch.load(file, map_location="cpu", weights_only=True)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise ValueError("it does not hold arrays by name")
    for name, tensor in content.items():
        _check_type(name, str(tensor.dtype).removeprefix("torch."))
    # Convert in PyTorch, because NumPy itself has no bfloat16.
    return {name: tensor.detach().float().numpy() for name, tensor in content.items()}, {}


READERS = {".safetensors": _read_safetensors, **dict.fromkeys((".pth", ".pt", ".th", ".bin"), _read_torch)}


class UnreadableType(Exception):
    """An array does not hold plain floating-point numbers. It may be quantized, for example."""


def _check_type(name: str, dtype: str) -> None:
    if dtype not in READABLE.values() and not name.endswith(COUNTER):
        raise UnreadableType(f"its array {name} has dtype {dtype}")


def _tidy(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove what only training code needs, convert to float32, and check names and values."""
    if any(len(name) > LONGEST_NAME or not name.isprintable() for name in arrays):
        raise ValueError("the names of some arrays cannot be printed")
    prefix = "module." if all(name.startswith("module.") for name in arrays) else ""
    arrays = {
        name.removeprefix(prefix): np.asarray(array, np.float32)
        for name, array in arrays.items()
        if not name.endswith(COUNTER)
    }
    if not arrays:
        raise ValueError("it holds no arrays")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"its array {name} has non-finite values")
    return arrays


def _diagnosis(file: pathlib.Path, error: Exception) -> str:
    """Return what is wrong with the file that caused an error."""
    if isinstance(error, OSError):
        return first_line(error)
    with file.open("rb") as opened:
        start = opened.read(100).lstrip()
    if start.startswith(b"<"):
        return "it is a web page"
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's own message suggests loading without protection.
        match = re.search(r"\bGLOBAL ([\w.]{1,200})", str(error))
        if match:
            return f"it holds Python objects such as {match[1]}, which are never run"
        return "it is damaged or holds Python objects, which are never run"
    return "it is truncated" if isinstance(error, EOFError) else first_line(error).split(". ")[0]
