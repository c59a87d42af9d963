"""Downloads from the hub, with huggingface_hub played by a module of a few lines."""

import sys
import types

import pytest

from resnet_jax.pretrained import weight_files
from resnet_jax.pretrained.hub import FILES
from resnet_jax.pretrained.weight_files import Weights
from tests.pretrained.test_weight_files import ARRAYS, assert_same, refusal


@pytest.fixture
def hub(monkeypatch):
    """A function that says what the download of each file does: return a path, or raise."""
    errors = types.ModuleType("huggingface_hub.errors")
    errors.EntryNotFoundError = type("EntryNotFoundError", (Exception,), {})
    errors.LocalEntryNotFoundError = type("LocalEntryNotFoundError", (errors.EntryNotFoundError,), {})
    module = types.ModuleType("huggingface_hub")
    module.errors = errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)

    def play(files):
        def download(repository, name):
            assert repository == "owner/name"
            if isinstance(files[name], str):
                return files[name]
            raise files[name]

        module.hf_hub_download = download

    play.errors = errors
    return play


def test_safetensors_come_first(tmp_path, hub):
    path = str(tmp_path / "model.safetensors")
    weight_files.write(path, Weights(ARRAYS, {}))
    hub({"model.safetensors": path})
    assert_same(weight_files.read("hf://owner/name").arrays, ARRAYS)


def test_then_pytorch(tmp_path, hub):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    torch.save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, path)
    hub({"model.safetensors": hub.errors.EntryNotFoundError(), "pytorch_model.bin": str(path)})
    assert_same(weight_files.read("hf://owner/name").arrays, ARRAYS)


def test_repository_without_weights(hub):
    hub(dict.fromkeys(FILES, hub.errors.EntryNotFoundError()))
    assert "it has no model.safetensors or pytorch_model.bin" in refusal("hf://owner/name")


def test_no_network(hub):
    hub(dict.fromkeys(FILES, hub.errors.LocalEntryNotFoundError("many\nlines")))
    assert "huggingface.co cannot be reached" in refusal("hf://owner/name")


def test_what_was_downloaded_before_needs_no_network(tmp_path, hub):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    torch.save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, path)
    hub({"model.safetensors": hub.errors.LocalEntryNotFoundError("offline"), "pytorch_model.bin": str(path)})
    assert_same(weight_files.read("hf://owner/name").arrays, ARRAYS)


def test_other_failures_are_one_sentence(hub):
    hub({"model.safetensors": RuntimeError("401 Client Error\n\nRepository Not Found")})
    assert "(401 Client Error)" in refusal("hf://owner/name")


def test_not_installed(hide_package):
    hide_package("huggingface_hub")
    assert "pip install huggingface_hub" in refusal("hf://owner/name")


@pytest.mark.parametrize("name", ["owner", "owner/name/file", "", "../name/x"])
def test_no_name_of_a_repository(name):
    assert "write hf://owner/name" in refusal(f"hf://{name}")
