import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.workdir.lock import locked
from resnet_jax.workdir.workdir import WorkDir


def test_settings_and_classes_come_back(tmp_path):
    directory = WorkDir(str(tmp_path / "run"))
    assert not directory.exists()
    directory.make()
    directory.describe(settings.default(), ("cat", "dog"))
    assert directory.exists()
    assert directory.config() == settings.default()
    assert directory.classes() == ("cat", "dog")
    assert directory.result() is None
    directory.write_result({"test": 1})
    assert directory.result() == {"test": 1}
    directory.forget_result()
    assert directory.result() is None


def test_small_files_live_in_a_bucket_as_well(bucket):
    directory = WorkDir("gs://bucket/runs/first")
    directory.make()
    directory.describe(settings.default(), ("cat", "dog"))
    directory.write_result({"test": None})
    assert (directory.exists(), directory.classes(), directory.result()) == (True, ("cat", "dog"), {"test": None})
    assert {path.name for path in (bucket / "runs" / "first").iterdir()} == {
        "config.json",
        "classes.json",
        "result.json",
    }
    with locked(directory.path):  # There are no locks in a bucket.
        pass


def test_a_bucket_without_a_package_that_reaches_it_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs://bucket/run cannot be reached without tensorflow or gcsfs"):
        WorkDir("gs://bucket/run")


def test_relative_paths_are_made_absolute_and_addresses_left_alone(tmp_path, monkeypatch):
    """Orbax takes only absolute paths."""
    monkeypatch.chdir(tmp_path)
    directory = WorkDir("relative/run")
    directory.open_checkpoints(2, "top1")
    directory.checkpoints.save(1, {"params": np.ones(3)}, {}, None)
    directory.checkpoints.wait()
    assert (tmp_path / "relative" / "run" / "checkpoints" / "1").is_dir()
    assert str(WorkDir("gs://bucket/run").path) == "gs://bucket/run"


def test_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the workdir .*choose another --workdir"):
        WorkDir(str(tmp_path / "file" / "run")).make()


def test_what_is_no_run_directory_is_said(tmp_path):
    with pytest.raises(UserError, match=r"is no run directory, for it has no config.json"):
        WorkDir(str(tmp_path)).config()


def test_files_are_written_wholly_and_in_folders_too(tmp_path):
    directory = WorkDir(str(tmp_path))
    directory.write("nan/state", b"\x00\xff")
    directory.write("nan/state", b"\x01")
    assert (tmp_path / "nan" / "state").read_bytes() == b"\x01"
    assert [path.name for path in (tmp_path / "nan").iterdir()] == ["state"]
    directory.remove("nan/state")
    directory.remove("nan/state")
    assert not list((tmp_path / "nan").iterdir())
