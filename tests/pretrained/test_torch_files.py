"""PyTorch files: nested content, Python objects beside the weights, and malicious files."""

import argparse
import collections
import datetime
import functools
import os
import pathlib
import pickle
import re
import struct
import subprocess

import numpy as np
import pytest

from resnet_jax.pretrained import weight_files
from tests.pretrained.test_weight_files import ARRAYS, assert_same, read_error


def test_arrays_are_named_by_the_keys_of_all_dicts(tmp_path):
    torch = pytest.importorskip("torch")
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(5)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 3, "state_dict": {"fc.bias": torch.ones(5)}, "optimizer": optimizer}, tmp_path / "w.pth")
    arrays = weight_files.read(str(tmp_path / "w.pth")).arrays
    assert_same(arrays, {"state_dict.fc.bias": np.ones(5), "optimizer.state.0.momentum_buffer": np.ones(5)})


class Code:
    """An object that creates a directory when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("format", ["bare", "zip", "legacy"])
def test_code_in_a_file_does_not_run(tmp_path, format):
    torch = pytest.importorskip("torch")
    path, place = tmp_path / "w.pth", tmp_path / "trace"
    content = {"fc.weight": Code(place)}
    if format == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format == "zip")
    assert re.search("holds Python objects.*, which are never run", read_error(path))
    assert not place.exists()
    pickle.loads(pickle.dumps(content))
    assert place.exists()  # Ordinary unpickling runs the code.


@pytest.mark.parametrize("function", [exec, subprocess.check_call])
def test_functions_in_a_file_are_not_called(tmp_path, function):
    torch = pytest.importorskip("torch")

    class Call:
        def __reduce__(self):
            return function, ("raise RuntimeError",)

    torch.save({"call": Call(), "fc.bias": torch.ones(5)}, tmp_path / "w.pth")
    assert_same(weight_files.read(str(tmp_path / "w.pth")).arrays, {"fc.bias": np.ones(5)})


class Settings:
    """A class of a training script, with settings as attributes."""

    __slots__ = ("epochs",)


class DictWithAttributes(dict):
    """A dict with its items as attributes, like those of easydict, yacs and Lightning."""

    def __init__(self, **items):
        super().__init__(items)
        self.__dict__ = self


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(arch="resnet18", data=pathlib.Path("/data")),
        {"accuracy": np.float64(76.1), "classes": np.arange(3), "path": pathlib.PurePosixPath("a")},
        {"loss": struct.pack, "step": functools.partial(max, 1), "when": datetime.datetime(2026, 1, 1)},
        Settings(),
        {"log": collections.defaultdict(list, loss=[0.1]), "last": collections.deque([0.2, 0.1], maxlen=2)},
        DictWithAttributes(lr=0.1),
    ],
    ids=["namespace", "NumPy", "functions", "slots", "collections", "dict with attributes"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_python_objects_beside_the_weights_are_ignored(tmp_path, beside, zipped):
    torch = pytest.importorskip("torch")
    content = {"beside": beside, **{name: torch.from_numpy(array) for name, array in ARRAYS.items()}}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_same(weight_files.read(str(tmp_path / "w.pth")).arrays, ARRAYS)


def test_arrays_of_a_pickled_model_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(3, 2)
    torch.save(torch.nn.Sequential(linear), tmp_path / "w.pth")
    arrays = weight_files.read(str(tmp_path / "w.pth")).arrays
    expected = {"weight": linear.weight.detach().numpy(), "bias": linear.bias.detach().numpy()}
    assert_same(arrays, {f"_modules.0._parameters.{name}": array for name, array in expected.items()})


def test_object_that_contains_itself_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    content = {"fc.bias": torch.ones(5)}
    content["self"] = content
    torch.save(content, tmp_path / "w.pth")
    assert weight_files.read(str(tmp_path / "w.pth")).arrays.keys() == {"fc.bias"}
