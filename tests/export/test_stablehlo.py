import base64
import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest

from resnet_jax.export import stablehlo
from resnet_jax.export.program import Program
from tests.export.conftest import FAMILIES, relative_difference, size_for, small_model

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


def logits_of(name):
    model, variables = small_model(name)
    return lambda images: {"logits": model.apply(variables, images.astype(np.float32) / 128 - 1, train=False)}


def check_file(name, odd, batch_sizes, path):
    """Compare the file of a variant with the model, for some batch sizes."""
    shape = (*size_for(name, odd), 3)
    images = np.random.default_rng(1).integers(0, 256, (max(batch_sizes), *shape), np.uint8)
    function = logits_of(name)
    expected = np.asarray(jax.jit(function)(images)["logits"])
    stablehlo.write(Program(function, shape, ("logits",), {}), path, batch_size=None)
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    for batch_size in batch_sizes:
        actual = np.asarray(call(images[:batch_size])["logits"])
        assert relative_difference(actual, expected[:batch_size]) < 1e-4


def test_logits_match_flax(tmp_path):
    check_file("resnet20", False, (1, 3, 32), tmp_path / "model.stablehlo")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_all_families_match_flax(name, tmp_path, monkeypatch):
    """A file for a single platform, to save time. The sides of the images are odd numbers."""
    monkeypatch.setattr(stablehlo, "PLATFORMS", ("cpu",))
    check_file(name, True, (1, 3, 32), tmp_path / "model.stablehlo")


def test_file_names_no_python_file_of_this_machine(tmp_path):
    path = tmp_path / "model.stablehlo"
    stablehlo.write(Program(logits_of("resnet20"), (8, 8, 3), ("logits",), {}), path, batch_size=None)
    assert b".py" not in path.read_bytes()


def test_metadata_do_not_depend_on_the_date(monkeypatch):
    program = Program(logits_of("resnet20"), (8, 8, 3), ("logits",), {"classes": ["a"]})
    content = stablehlo.with_metadata(b"", program)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert stablehlo.with_metadata(b"", program) == content


# Small programs with their inputs and outputs, written by `fixtures/write_stablehlo.py` under both versions of JAX.
WRITTEN = sorted(FIXTURES.glob("*.stablehlo"))


@pytest.mark.parametrize("path", WRITTEN, ids=[path.stem for path in WRITTEN])
def test_files_of_both_versions_of_jax_are_read(path):
    """JAX 0.12 writes symbolic batch sizes in a way that 0.10 does not read, so its file has a fixed one."""
    with zipfile.ZipFile(path) as archive:
        expected = np.frombuffer(
            base64.b64decode(json.loads(archive.read("metadata.json"))["probabilities"]), np.float32
        )
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    images = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    actual = np.asarray(exported.call(images)["probabilities"])
    np.testing.assert_allclose(actual.ravel(), expected, rtol=1e-5)


def test_fixtures_come_from_both_versions_of_jax():
    assert [path.stem for path in WRITTEN] == ["jax_0.10_any_batch", "jax_0.12_fixed_batch"]
