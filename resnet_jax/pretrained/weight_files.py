"""Read files of published weights as NumPy arrays by name, and encode arrays as safetensors."""

import os
import pathlib
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ml_dtypes  # noqa: F401  (It adds bfloat16 to NumPy, and so to safetensors.)
import numpy as np
import safetensors
import safetensors.numpy

from resnet_jax.errors import UserError, first_line
from resnet_jax.pretrained import hub, torch_files

# The dtypes that we read, by their names in safetensors. Others need the library that wrote the file.
READABLE = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
COUNTER = "num_batches_tracked"  # the last part of the name of a counter that only PyTorch's BatchNorm needs
LONGEST_NAME = 200  # of an array, in characters; no weights have longer names, and messages show names


@dataclass(frozen=True)
class Weights:
    """The content of a file of weights.

    Attributes:
      arrays: float32 arrays by name.
      metadata: further information, such as the names of the classes.
      other_dtypes: the dtypes of the arrays that are not floating-point, by name, spelled as in the file: "int64" or,
        in safetensors, "I64".
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]
    other_dtypes: dict[str, str] = field(default_factory=dict)


def read(path: str) -> Weights:
    """Read all arrays of a file, without running any code that it may contain.

    The name of an array begins with the keys of the dicts that contain it, as in "state_dict.fc.bias". Arrays of 16 and
    64 bits are converted to float32. The counters of BatchNorm are left out.

    Args:
      path: a safetensors file or, with PyTorch installed, a PyTorch file in either of its formats, with any suffix; or
        hf://owner/name, a repository on huggingface.co.

    Raises:
      UserError: if the file does not exist, is damaged or holds no arrays; or if a package needed to read or download
        it is not installed.
    """
    file = hub.download(path) if path.startswith(hub.PREFIX) else pathlib.Path(path).expanduser()
    if not os.path.isfile(file):
        problem = "it is a directory, but not a run directory" if os.path.isdir(file) else "there is no such file"
        raise UserError(f"cannot read weights from {path} ({problem}). Give a run directory or the path of a file.")
    try:
        return _read_safetensors(file) if _is_safetensors(file) else _read_torch(file)
    except UserError:
        raise
    except Exception as error:  # For damaged files, the libraries raise exceptions of many types.
        raise UserError(
            f"cannot read weights from {path} ({_diagnosis(file, error)}). Download the file again, "
            "or save its arrays as .safetensors on the machine that created it."
        ) from error


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Return the content of a .safetensors file with these arrays and metadata.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.safetensors")
      >>> size = path.write_bytes(safetensors_bytes({"fc.bias": np.zeros(2, np.float32)}, {"classes": "cat, dog"}))
      >>> read(str(path))
      Weights(arrays={'fc.bias': array([0., 0.], dtype=float32)}, metadata={'classes': 'cat, dog'}, other_dtypes={})
    """
    # C order is needed because safetensors writes the memory of a transposed array as it is.
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)


def _is_safetensors(file: pathlib.Path) -> bool:
    """Return whether the content of a file is that of a safetensors file, rather than a PyTorch file.

    Raises:
      ValueError: if it is neither.
    """
    with file.open("rb") as opened:
        start = opened.read(9)
    if start[8:] == b"{":  # A safetensors file starts with the length of its header, in 8 bytes, and the header's JSON.
        return True
    if start.startswith((b"PK\3\4", b"\x80")):  # PyTorch writes a zip archive. Before version 1.6, it wrote a pickle.
        return False
    raise ValueError("it is neither a safetensors file nor a PyTorch file" if start else "it is empty")


def _read_safetensors(file: pathlib.Path) -> Weights:
    with safetensors.safe_open(file, framework="np") as opened:
        names = opened.keys()
        dtypes = {name: opened.get_slice(name).get_dtype() for name in names}
        dtypes = {name: READABLE.get(dtype, dtype) for name, dtype in dtypes.items()}
        arrays, other_dtypes = _convert(dtypes, lambda name: np.asarray(opened.get_tensor(name), np.float32))
        return Weights(arrays, opened.metadata() or {}, other_dtypes)


def _read_torch(file: pathlib.Path) -> Weights:
    tensors = torch_files.load(file)
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    # Convert in PyTorch, because NumPy itself has no bfloat16.
    arrays, other_dtypes = _convert(dtypes, lambda name: tensors[name].detach().float().numpy())
    return Weights(arrays, {}, other_dtypes)


def _convert(
    dtypes: Mapping[str, str], read: Callable[[str], np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the floating-point arrays, which `read` returns by name, and the dtypes of the others."""
    arrays, other_dtypes = {}, {}
    for name, dtype in dtypes.items():
        if len(name) > LONGEST_NAME or not name.isprintable() or name.rpartition(".")[-1] == COUNTER:
            continue
        if dtype in READABLE.values():
            arrays[name] = read(name)
        else:
            other_dtypes[name] = dtype
    if not (arrays or other_dtypes):
        raise ValueError("it holds no tensors")
    return arrays, other_dtypes


def _diagnosis(file: pathlib.Path, error: Exception) -> str:
    """Return what is wrong with the file that caused an error."""
    if isinstance(error, OSError):
        return first_line(error)
    with file.open("rb") as opened:
        start = opened.read(100).lstrip()
    if start.startswith(b"<"):
        return "it is a web page"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS to the file"
    if "TorchScript" in str(error):
        return "it is a TorchScript program, which is never run"
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's own message suggests loading without protection.
        match = re.search(r"\bGLOBAL ([\w.]{1,200})", str(error))
        if match:
            return f"it holds Python objects such as {match[1]}, which are never run"
        return "it is damaged or holds Python objects, which are never run"
    return "it is truncated" if isinstance(error, EOFError) else first_line(error).split(". ")[0]
