"""Files of weights: valid, damaged and unsuitable ones."""

import argparse
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from resnet_jax.errors import UserError
from resnet_jax.pretrained import weight_files

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


def test_encoding_and_reading_keep_arrays_and_metadata(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(weight_files.safetensors_bytes(ARRAYS, METADATA))
    read = weight_files.read(str(path))
    assert_same(read.arrays, ARRAYS)
    assert read.metadata == METADATA


def test_transposed_arrays_are_encoded_in_logical_order(tmp_path):
    path = tmp_path / "w.safetensors"
    transposed = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    path.write_bytes(weight_files.safetensors_bytes(transposed))
    assert_same(weight_files.read(str(path)).arrays, transposed)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_dtypes_become_float32(tmp_path, dtype):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({name: array.astype(dtype) for name, array in ARRAYS.items()}, path)
    assert_same(weight_files.read(str(path)).arrays, ARRAYS)


def test_counters_are_left_out(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({**ARRAYS, "bn1.num_batches_tracked": np.asarray(7, np.float32)}, path)
    assert_same(weight_files.read(str(path)).arrays, ARRAYS)


@pytest.mark.parametrize("name", ["w.pth", "w.pth.tar", "w.ckpt", "w.safetensors", "w"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_are_read_in_both_formats_with_any_suffix(tmp_path, name, zipped):
    torch = pytest.importorskip("torch")
    content = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in ARRAYS.items()}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    read = weight_files.read(str(tmp_path / name))
    assert_same(read.arrays, ARRAYS)
    assert read.metadata == {}


@pytest.mark.parametrize("name", ["w.bin", "w.pt", "w"])
def test_safetensors_are_read_with_any_suffix(tmp_path, name):
    contents = (safetensors.numpy.save(ARRAYS, {"padding": "x" * length}) for length in range(256))
    content = next(content for content in contents if content[:1] == b"\x80")  # as at the start of a pickle
    (tmp_path / name).write_bytes(content)
    assert_same(weight_files.read(str(tmp_path / name)).arrays, ARRAYS)


def test_published_pytorch_file_is_read(test_data):
    """A file from 2018: old format, saved on a GPU, prefixed names."""
    pytest.importorskip("torch")
    arrays = weight_files.read(str(test_data / "weights" / "resnet20-12fca82f.th")).arrays
    assert len(arrays) == 19 * 5 + 2
    assert arrays["state_dict.module.conv1.weight"].shape == (16, 3, 3, 3)
    assert arrays["state_dict.module.linear.weight"].shape == (10, 64)


@pytest.mark.parametrize("content", [["a list"], {"epoch": 1}, {}, argparse.Namespace(arch="resnet18")], ids=str)
def test_pytorch_file_without_tensors_is_refused(tmp_path, content):
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "w.pth")
    assert "it holds no tensors" in read_error(tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [np.int8, np.int64, ml_dtypes.float8_e4m3fn])
def test_dtypes_of_other_safetensors_are_reported(tmp_path, dtype):
    content = {**ARRAYS, "conv.weight": np.zeros(3, dtype)}
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save(content))
    read = weight_files.read(str(tmp_path / "w.safetensors"))
    assert_same(read.arrays, ARRAYS)
    assert read.other_dtypes.keys() == {"conv.weight"}


@pytest.mark.parametrize("dtype", ["int8", "float8_e5m2", "qint8"])
def test_dtypes_of_other_tensors_are_reported(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    if dtype == "qint8":
        tensor = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    else:
        tensor = torch.zeros(3).to(getattr(torch, dtype))
    torch.save({"conv.weight": tensor}, tmp_path / "w.pth")
    assert weight_files.read(str(tmp_path / "w.pth")) == weight_files.Weights({}, {}, {"conv.weight": dtype})


@pytest.mark.parametrize("name", ["\x1b[2Jconv.weight", "conv\nweight", "w" * 10_000])
def test_arrays_with_unprintable_names_are_ignored(tmp_path, name):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.numpy.save({**ARRAYS, name: np.zeros(3, np.float32)}))
    assert_same(weight_files.read(str(path)).arrays, ARRAYS)


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
        b"short",
    ],
    ids=["giant header", "no header", "giant array", "truncated", "no arrays", "empty", "short"],
)
def test_damaged_safetensors_are_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert f"cannot read weights from {path}" in read_error(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "it is a pointer of Git LFS to the file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "it is neither a safetensors file nor a PyTorch file"),
        (b"", "it is empty"),
    ],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_other_files_are_recognized_by_their_content(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    assert f"({problem})" in read_error(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # Files of this kind are still around.
def test_torchscript_program_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "w.pt")
    assert "it is a TorchScript program, which is never run" in read_error(tmp_path / "w.pt")


def test_missing_file_and_directory_are_refused(tmp_path):
    (tmp_path / "d.pth").mkdir()
    assert "there is no such file" in read_error(tmp_path / "w.safetensors")
    assert "it is a directory" in read_error(tmp_path / "d.pth")


def test_pytorch_file_without_torch_is_refused_with_a_remedy(tmp_path, hide_package):
    (tmp_path / "w.pth").write_bytes(b"PK\3\4")
    hide_package("torch")
    assert read_error(tmp_path / "w.pth").endswith("Run: pip install torch. Or save its arrays as .safetensors.")


def test_safetensors_are_read_without_torch(tmp_path, hide_package):
    hide_package("torch")
    (tmp_path / "w.safetensors").write_bytes(weight_files.safetensors_bytes(ARRAYS))
    assert_same(weight_files.read(str(tmp_path / "w.safetensors")).arrays, ARRAYS)
