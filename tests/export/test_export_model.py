"""Exports are proven before they are kept, and leave nothing behind if the proof or the disk fails."""

import errno
import json
import pathlib
import sys
import zipfile

import jax
import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.export import proof, stablehlo
from resnet_jax.export.export_model import export_model
from resnet_jax.export.program import Program
from resnet_jax.export.targets import check_target, suffix_of, unfinished
from resnet_jax.terminal import Reporter

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 4, 4, 3), np.uint8)  # more than one batch, and no whole number


def make_program(factor=1.0):
    """Return a program that is no network, so that it compiles at once."""

    def function(images):
        means = images.astype(np.float32).mean(axis=(1, 2)) / 255
        return {"probabilities": jax.nn.softmax(factor * means), "features": factor * means}

    return Program(function, (4, 4, 3), ("probabilities", "features"), {"classes": ["Käfer", "caf\udce9", "c"]})


@pytest.fixture
def reporter():
    with Reporter(active=False) as reporter:
        yield reporter


def test_file_is_proven_and_kept_with_its_metadata(tmp_path, reporter):
    path = tmp_path / "model.stablehlo"
    exported = export_model(make_program(), str(path), IMAGES, reporter)
    assert exported.num_bytes == path.stat().st_size
    assert exported.proof.runtime == f"JAX {jax.__version__}"
    assert exported.proof.num_images == exported.proof.same_top1 == len(IMAGES)
    assert max(exported.proof.differences.values()) < 1e-6
    assert list(tmp_path.iterdir()) == [path]
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("metadata.json")) == {"classes": ["Käfer", "caf\udce9", "c"]}


def test_file_that_computes_something_else_is_refused_and_leaves_nothing(tmp_path, reporter, monkeypatch):
    write = stablehlo.write
    monkeypatch.setattr(stablehlo, "write", lambda program, path, size: write(make_program(1.001), path, size))
    with pytest.raises(UserError, match=r"of the file differ from those of the model by .* Nothing was written"):
        export_model(make_program(), str(tmp_path / "model.stablehlo"), IMAGES, reporter)
    assert not list(tmp_path.iterdir())


def test_file_whose_outputs_are_nan_is_refused(tmp_path):
    path = tmp_path / "model.stablehlo"
    stablehlo.write(make_program(np.nan), path, batch_size=None)
    with pytest.raises(UserError, match="differ"):
        proof.prove(make_program(), path, ".stablehlo", IMAGES)


def test_model_whose_outputs_are_nan_is_refused(tmp_path):
    path = tmp_path / "model.stablehlo"
    stablehlo.write(make_program(), path, batch_size=None)
    with pytest.raises(UserError, match="the model computes probabilities that are not finite"):
        proof.prove(make_program(np.nan), path, ".stablehlo", IMAGES)


def test_damaged_file_is_reported_in_one_sentence(tmp_path):
    path = tmp_path / "model.stablehlo"
    path.write_bytes(b"not a program")
    with pytest.raises(UserError, match="does not run in its own runtime"):
        proof.run_in_fresh_process(path, ".stablehlo", IMAGES)


@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, reporter, monkeypatch, overwrite):
    path = tmp_path / "model.stablehlo"
    if overwrite:
        path.write_text("old")

    def fill_disk(program, path, batch_size):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stablehlo, "write", fill_disk)
    with pytest.raises(UserError, match=r"model\.stablehlo \(No space left on device\)\. Free some space there"):
        export_model(make_program(), str(path), IMAGES, reporter, overwrite=overwrite)
    assert [file.read_text() for file in tmp_path.iterdir()] == (["old"] if overwrite else [])


def test_existing_file_is_replaced_only_with_overwrite(tmp_path, reporter):
    path = tmp_path / "model.stablehlo"
    path.write_text("old")
    with pytest.raises(UserError, match=r"it exists\). Choose another path, or replace it with --overwrite"):
        export_model(make_program(), str(path), IMAGES, reporter)
    assert path.read_text() == "old"
    export_model(make_program(), str(path), IMAGES, reporter, overwrite=True)
    assert path.stat().st_size > 100


def test_batch_size_can_be_fixed(tmp_path, reporter):
    path = tmp_path / "model.stablehlo"
    export_model(make_program(), str(path), IMAGES, reporter, batch_size=3)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.in_avals[0].shape == (3, 4, 4, 3)
    assert exported.platforms == stablehlo.PLATFORMS


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("model.pb", "names no format"),
        ("model", "names no format"),
        ("missing/model.onnx", r"no such directory\). Create the directory"),
        ("folder.onnx", r"it is a directory\). Give the path of a file"),
        ("file.onnx/", r"it is a file\). Give the path of a directory"),
    ],
)
def test_bad_targets_are_refused_before_any_work(tmp_path, to, message):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file.onnx").touch()
    with pytest.raises(UserError, match=message):
        check_target(f"{tmp_path}/{to}", overwrite=False)


def test_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"\(its name is too long\)\. Choose a shorter one\."):
        check_target(f"{tmp_path}/{240 * 'a'}.stablehlo", overwrite=False)


def test_current_directory_can_be_replaced(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "saved_model.pb").touch()
    monkeypatch.chdir(directory)
    assert check_target("./", overwrite=True) == directory


def test_directory_is_overwritten_only_if_it_holds_a_saved_model(tmp_path):
    directory = tmp_path / "photos"
    directory.mkdir()
    (directory / "cat.jpg").touch()
    with pytest.raises(UserError, match="it holds other files"):
        check_target(f"{directory}/", overwrite=True)
    (directory / "saved_model.pb").touch()
    assert check_target(f"{directory}/", overwrite=True) == pathlib.Path(directory)


@pytest.mark.parametrize("exists", [False, True])
def test_directory_is_written_or_replaced_as_a_whole(tmp_path, exists):
    directory = tmp_path / "model"
    if exists:
        directory.mkdir()
        (directory / "old").touch()
    with unfinished(directory) as path:
        path.mkdir()
        (path / "new").touch()
        assert directory.exists() == exists
    assert [file.name for file in directory.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [directory]


def test_missing_package_is_reported_before_any_work(tmp_path, hide_package, monkeypatch):
    monkeypatch.delitem(sys.modules, "resnet_jax.export.onnx_format", raising=False)
    hide_package("onnxruntime")
    with pytest.raises(UserError, match=r'needs onnxruntime, which is not installed.* pip install "\.\[onnx\]"'):
        check_target(f"{tmp_path}/model.onnx", overwrite=False)


def test_directory_is_restored_if_the_new_one_cannot_be_moved(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "old").touch()
    with pytest.raises(FileNotFoundError), unfinished(directory):
        pass  # Nothing is written, so there is nothing to move.
    assert [file.name for file in directory.iterdir()] == ["old"]


def test_format_is_chosen_by_the_end_of_the_path():
    assert suffix_of("a.b/model.onnx") == ".onnx"
    assert suffix_of("saved.model/") == "/"
