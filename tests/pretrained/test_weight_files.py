"""Files of weights: valid, damaged and malicious ones."""

import argparse
import os
import pickle
import re
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from resnet_jax.errors import UserError
from resnet_jax.pretrained import weight_files
from resnet_jax.pretrained.weight_files import Weights

ARRAYS = {"conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), "fc.bias": np.ones(5, np.float32)}
METADATA = {"classes": '["cat", "dog"]', "mean": "[0.5]"}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name])


def read_error(path):
    """Return the message of the `UserError` that reading a file raises."""
    with pytest.raises(UserError) as error:
        weight_files.read(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_write_and_read_keep_arrays_and_metadata(tmp_path):
    path = str(tmp_path / "w.safetensors")
    weight_files.write(path, Weights(ARRAYS, METADATA))
    read = weight_files.read(path)
    assert_same(read.arrays, ARRAYS)
    assert read.metadata == METADATA


def test_transposed_arrays_are_written_in_logical_order(tmp_path):
    path = str(tmp_path / "w.safetensors")
    transposed = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    weight_files.write(path, Weights(transposed, {}))
    assert_same(weight_files.read(path).arrays, transposed)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_dtypes_become_float32(tmp_path, dtype):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({name: array.astype(dtype) for name, array in ARRAYS.items()}, path)
    assert_same(weight_files.read(str(path)).arrays, ARRAYS)


def test_prefix_and_counters_are_stripped(tmp_path):
    path = tmp_path / "w.safetensors"
    prefixed = {f"module.{name}": array for name, array in ARRAYS.items()}
    safetensors.numpy.save_file({**prefixed, "module.bn1.num_batches_tracked": np.asarray(7)}, path)
    assert_same(weight_files.read(str(path)).arrays, ARRAYS)


def test_prefix_of_only_some_names_is_kept(tmp_path):
    path = str(tmp_path / "w.safetensors")
    weight_files.write(path, Weights({"module.weight": np.ones(2), "fc.bias": np.ones(2)}, {}))
    assert weight_files.read(path).arrays.keys() == {"module.weight", "fc.bias"}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_pytorch_files_are_read_in_both_formats(tmp_path, suffix, zipped, wrapper):
    torch = pytest.importorskip("torch")
    content = {f"module.{name}": torch.nn.Parameter(torch.from_numpy(array)) for name, array in ARRAYS.items()}
    content = content if wrapper is None else {wrapper: content, "epoch": 3}
    path = tmp_path / f"w{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = weight_files.read(str(path))
    assert_same(read.arrays, ARRAYS)
    assert read.metadata == {}


def test_published_pytorch_file_is_read(test_data):
    """A file from 2018: old format, saved on a GPU, prefixed names."""
    pytest.importorskip("torch")
    arrays = weight_files.read(str(test_data / "weights" / "resnet20-12fca82f.th")).arrays
    assert len(arrays) == 19 * 5 + 2
    assert arrays["conv1.weight"].shape == (16, 3, 3, 3)
    assert arrays["linear.weight"].shape == (10, 64)


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


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (["a list"], "it does not hold arrays by name"),
        ({"epoch": 1}, "it does not hold arrays by name"),
        ({}, "it holds no arrays"),
    ],
)
def test_pytorch_file_without_arrays_is_refused(tmp_path, content, problem):
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "w.pth")
    assert problem in read_error(tmp_path / "w.pth")


def test_python_objects_in_a_file_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"args": argparse.Namespace(arch="resnet18"), "fc.weight": torch.zeros(1)}, tmp_path / "w.pth")
    assert "holds Python objects such as argparse.Namespace" in read_error(tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [np.int8, np.int64, ml_dtypes.float8_e4m3fn])
def test_quantized_safetensors_are_refused(tmp_path, dtype):
    content = {**ARRAYS, "conv.weight": np.zeros(3, dtype)}
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save(content))
    assert re.search(
        "array conv.weight has dtype .*Save them as one of float16", read_error(tmp_path / "w.safetensors")
    )


@pytest.mark.parametrize("dtype", ["int8", "float8_e5m2", "qint8"])
def test_quantized_pytorch_files_are_refused(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    if dtype == "qint8":
        tensor = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    else:
        tensor = torch.zeros(3).to(getattr(torch, dtype))
    torch.save({"conv.weight": tensor}, tmp_path / "w.pth")
    assert f"its array conv.weight has dtype {dtype}" in read_error(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["\x1b[2Jconv.weight", "conv\nweight", "w" * 10_000])
def test_unprintable_names_are_refused(tmp_path, name):
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save({name: np.zeros(3, np.float32)}))
    assert "the names of some arrays cannot be printed" in read_error(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_weights_are_refused(tmp_path, value):
    content = {**ARRAYS, "conv.weight": np.array([0, value], np.float32)}
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save(content))
    assert "array conv.weight has non-finite values" in read_error(tmp_path / "w.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 0.98])
def test_truncated_pytorch_file_is_refused(tmp_path, zipped, fraction):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    assert "Download the file again" in read_error(path)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**40) + b"junk",
        struct.pack("<Q", 4) + b"junk",
        struct.pack("<Q", 76) + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        safetensors.numpy.save({"a": np.zeros(9, np.float32)})[:-1],
        safetensors.numpy.save({}),
        b"",
    ],
    ids=["giant header", "no header", "giant array", "truncated", "no arrays", "empty"],
)
def test_damaged_safetensors_are_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert f"cannot read weights from {path}" in read_error(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_web_page_is_recognized(tmp_path, name):
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    (tmp_path / name).write_text("\n<!DOCTYPE html><html>404</html>")
    assert "(it is a web page)" in read_error(tmp_path / name)


def test_missing_file_directory_and_unknown_suffix_are_refused(tmp_path):
    (tmp_path / "d.pth").mkdir()
    assert "there is no such file" in read_error(tmp_path / "w.safetensors")
    assert "it is a directory" in read_error(tmp_path / "d.pth")
    assert "ends in .safetensors, .pth" in read_error(tmp_path / "w.npz")


def test_pytorch_file_without_torch_is_refused_with_a_remedy(tmp_path, hide_package):
    (tmp_path / "w.pth").write_bytes(b"")
    hide_package("torch")
    assert read_error(tmp_path / "w.pth").endswith("Run: pip install torch. Or save its arrays as .safetensors.")


def test_safetensors_are_read_without_torch(tmp_path, hide_package):
    hide_package("torch")
    weight_files.write(str(tmp_path / "w.safetensors"), Weights(ARRAYS, {}))
    assert_same(weight_files.read(str(tmp_path / "w.safetensors")).arrays, ARRAYS)


class TestWriteFailures:
    def write_error(self, path):
        with pytest.raises(UserError) as error:
            weight_files.write(str(path), Weights(ARRAYS, {}))
        return str(error.value)

    def test_write_refuses_another_suffix(self, tmp_path):
        assert "ends in .safetensors" in self.write_error(tmp_path / "w.pth")

    def test_write_refuses_a_missing_directory(self, tmp_path):
        assert f"Create the directory {tmp_path / 'none'} first" in self.write_error(
            tmp_path / "none" / "w.safetensors"
        )

    def test_write_to_a_full_disk_keeps_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "w.safetensors"
        path.write_text("old")

        def raise_disk_full(file):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("resnet_jax.files.sync_to_disk", raise_disk_full)
        assert "No space left on device" in self.write_error(path)
        assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
        assert path.read_text() == "old"

    def test_write_refuses_a_directory(self, tmp_path):
        (tmp_path / "w.safetensors").mkdir()
        assert "cannot write weights" in self.write_error(tmp_path / "w.safetensors")
