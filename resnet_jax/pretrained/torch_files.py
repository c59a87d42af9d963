"""Read the tensors in PyTorch files, without running any code that a file may contain.

PyTorch's `weights_only` refuses a file that holds any class or function that it does not know to be safe. Many
files hold such objects beside the weights, for example the arguments of the training script. So we replace each class
and function with a stand-in: a class of the same name that does nothing and is therefore safe. PyTorch still refuses
modules such as `os`.
"""

import pathlib
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from resnet_jax.errors import UserError

SAFE_TORCH = (2, 6)  # Earlier versions could be tricked into running code despite `weights_only`: CVE-2025-32434.
MAX_STAND_INS = 1000  # in a file, so that reading it ends
# What PyTorch says when it refuses a class or function, and the `container` of the stand-in that it accepts.
REFUSALS = {
    r"GLOBAL ([\w.]+) was not an allowed global": None,
    r"Can only SETITEMS? for dict.* but got <class '([\w.]+)'>": OrderedDict,
    r"Can only (?:append to|extend) lists, but got <class '([\w.]+)'>": list,
}


class StandIn:
    """The base of the stand-ins.

    Attributes:
      container: what is created in place of an object with items; None: an instance of the class itself.
      state: what the file says about the attributes of the object. That of a `torch.nn.Module` contains its tensors.
    """

    container: type | None = None
    state: Any = None

    def __new__(cls, *arguments):
        return super().__new__(cls) if cls.container is None else cls.container()

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        self.state = state


def load(file: pathlib.Path) -> dict[str, Any]:
    """Return all tensors in a PyTorch file by their names, which begin with the keys of the dicts that contain them.

    Raises:
      UserError: if PyTorch is not installed, or is too old to be safe.
      Exception: of many types, if the file is damaged.
    """
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
    return {name: value for name, value in _values(_load_with_stand_ins(file)) if isinstance(value, torch.Tensor)}


def _load_with_stand_ins(file: pathlib.Path) -> Any:
    """Return the content of a file. Each attempt to load it may reveal one more class or function to replace."""
    import torch

    stand_ins: dict[tuple[str, str], type] = {}
    for _ in range(MAX_STAND_INS):
        try:
            with (
                warnings.catch_warnings(action="ignore"),  # Our own error message says what is wrong with a file.
                torch.serialization.safe_globals([*stand_ins.values()]),
                file.open("rb") as opened,  # PyTorch has another reader for paths with the suffix .safetensors.
            ):
                return torch.load(opened, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            stand_in = _stand_in(str(error))
            if stand_in is None:
                raise
            stand_ins[stand_in.__module__, stand_in.__name__] = stand_in
    raise ValueError("it holds too many kinds of Python objects")


def _stand_in(refusal: str) -> type | None:
    """Return the stand-in for what PyTorch refuses with this message; None if there is none."""
    for pattern, container in REFUSALS.items():
        match = re.search(pattern, refusal)
        if match:
            module, _, name = match[1].rpartition(".")
            return type(name, (StandIn,), {"__module__": module or "builtins", "container": container})
    return None


def _values(value: Any, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the values in nested dicts, lists and stand-ins, by their dotted names.

    Example:
      >>> dict(_values({"epoch": 9, "models": [{"fc": 1}, {"fc": 2}]}))
      {'epoch': 9, 'models.0.fc': 1, 'models.1.fc': 2}
    """
    seen = set() if seen is None else seen
    value = value.state if isinstance(value, StandIn) else value
    if not isinstance(value, Mapping | list | tuple):
        yield name, value
    elif id(value) not in seen:  # An object may contain itself.
        seen.add(id(value))
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _values(inner, f"{name}.{key}" if name else str(key), seen)
