"""Public weights without a download."""

import pytest

from resnet_jax.models.public_weights import PUBLIC_WEIGHTS
from resnet_jax.pretrained import hub, weight_files
from tests.pretrained import public_tiny


@pytest.fixture
def downloaded(monkeypatch, tmp_path):
    """Give "tiny" public weights whose download returns a local file. Return the addresses of all downloads."""
    monkeypatch.setitem(PUBLIC_WEIGHTS, "tiny", public_tiny.TINY_WEIGHTS)
    addresses = []

    def download(address):
        addresses.append(address)
        path = tmp_path / "model.safetensors"
        tag = address.rpartition(".")[-1]
        path.write_bytes(weight_files.safetensors_bytes(public_tiny.arrays(tag)))
        return path

    monkeypatch.setattr(hub, "download", download)
    return addresses
