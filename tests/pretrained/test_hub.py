"""Downloads from the Hugging Face hub, with a fake huggingface_hub module."""

import sys
import types

import pytest

from resnet_jax.pretrained import weight_files
from resnet_jax.pretrained.hub import FILES
from tests.pretrained.test_weight_files import ARRAYS, assert_same, read_error


@pytest.fixture
def hub(monkeypatch):
    """Return a function that sets the outcome of each file's download: a path to return or an exception to raise."""
    errors = types.ModuleType("huggingface_hub.errors")
    errors.EntryNotFoundError = type("EntryNotFoundError", (Exception,), {})
    errors.LocalEntryNotFoundError = type("LocalEntryNotFoundError", (errors.EntryNotFoundError,), {})
    module = types.ModuleType("huggingface_hub")
    module.errors = errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)

    def set_outcomes(files):
        def download(repository, name):
            assert repository == "owner/name"
            if isinstance(files[name], str):
                return files[name]
            raise files[name]

        module.hf_hub_download = download

    set_outcomes.errors = errors
    return set_outcomes


def test_safetensors_file_is_preferred(tmp_path, hub):
    path = tmp_path / "model.safetensors"
    path.write_bytes(weight_files.safetensors_bytes(ARRAYS))
    hub({"model.safetensors": str(path)})
    assert_same(weight_files.read("hf://owner/name").arrays, ARRAYS)


def test_pytorch_file_is_the_second_choice(tmp_path, hub):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    torch.save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, path)
    hub({"model.safetensors": hub.errors.EntryNotFoundError(), "pytorch_model.bin": str(path)})
    assert_same(weight_files.read("hf://owner/name").arrays, ARRAYS)


def test_repository_without_weights_is_refused(hub):
    hub(dict.fromkeys(FILES, hub.errors.EntryNotFoundError()))
    assert "it has no model.safetensors or pytorch_model.bin" in read_error("hf://owner/name")


def test_download_without_a_connection_is_refused(hub):
    hub(dict.fromkeys(FILES, hub.errors.LocalEntryNotFoundError("many\nlines")))
    assert "the hub cannot be reached" in read_error("hf://owner/name")


def test_cached_download_needs_no_connection(tmp_path, hub):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    torch.save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, path)
    hub({"model.safetensors": hub.errors.LocalEntryNotFoundError("offline"), "pytorch_model.bin": str(path)})
    assert_same(weight_files.read("hf://owner/name").arrays, ARRAYS)


def test_other_download_failures_are_one_sentence(hub):
    hub({"model.safetensors": RuntimeError("401 Client Error\n\nRepository Not Found")})
    assert "(401 Client Error)" in read_error("hf://owner/name")


def test_missing_huggingface_hub_is_refused_with_a_remedy(hide_package):
    hide_package("huggingface_hub")
    assert 'pip install ".[hub]"' in read_error("hf://owner/name")


@pytest.mark.parametrize("name", ["owner", "owner/name/file", "", "../name/x"])
def test_malformed_address_is_refused(name):
    assert "Write hf://owner/name" in read_error(f"hf://{name}")
