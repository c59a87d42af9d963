import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.workdir.lock import locked
from resnet_jax.workdir.workdir import WorkDir


def test_settings_classes_and_result_round_trip(tmp_path):
    directory = WorkDir(str(tmp_path / "run"))
    assert not directory.exists()
    directory.make()
    directory.write_config_and_classes(settings.default(), ("cat", "dog"))
    assert directory.exists()
    assert directory.config() == settings.default()
    assert directory.classes() == ("cat", "dog")
    assert directory.result() is None
    directory.write_result({"test": 1})
    assert directory.result() == {"test": 1}
    directory.forget_result()
    assert directory.result() is None


def test_small_files_can_live_in_a_bucket(bucket):
    directory = WorkDir("gs://bucket/runs/first")
    directory.make()
    directory.write_config_and_classes(settings.default(), ("cat", "dog"))
    directory.write_result({"test": None})
    assert (directory.exists(), directory.classes(), directory.result()) == (True, ("cat", "dog"), {"test": None})
    assert {path.name for path in (bucket / "runs" / "first").iterdir()} == {
        "config.json",
        "classes.json",
        "result.json",
    }
    with locked(directory.path):  # Buckets are not locked.
        pass


def test_bucket_without_a_client_package_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs://bucket/run cannot be reached because neither tensorflow nor gcsfs"):
        WorkDir("gs://bucket/run")


def test_relative_path_becomes_absolute_but_a_bucket_address_stays(tmp_path, monkeypatch):
    """Orbax requires absolute paths."""
    monkeypatch.chdir(tmp_path)
    directory = WorkDir("relative/run")
    with directory.open_checkpoints(2, "top1") as checkpoints:
        checkpoints.save(1, {"params": np.ones(3)}, {}, None)
    assert (tmp_path / "relative" / "run" / "checkpoints" / "1").is_dir()
    assert str(WorkDir("gs://bucket/run").path) == "gs://bucket/run"
    assert str(WorkDir("//run").path) == "/run"  # TensorStore refuses two slashes.


def test_unwritable_workdir_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the workdir .*Choose another --workdir"):
        WorkDir(str(tmp_path / "file" / "run")).make()


def test_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a run directory \(no config.json\)"):
        WorkDir(str(tmp_path)).config()


def test_write_is_atomic_and_creates_subdirectories(tmp_path):
    directory = WorkDir(str(tmp_path))
    directory.write("nan/state", b"\x00\xff")
    directory.write("nan/state", b"\x01")
    assert (tmp_path / "nan" / "state").read_bytes() == b"\x01"
    assert [path.name for path in (tmp_path / "nan").iterdir()] == ["state"]
    directory.remove("nan/state")
    directory.remove("nan/state")
    assert not list((tmp_path / "nan").iterdir())


def test_pending_save_is_finished_when_the_checkpoints_close(tmp_path):
    directory = WorkDir(str(tmp_path))
    with directory.open_checkpoints(2, "top1") as checkpoints:
        checkpoints.save(1, {"params": np.ones(3)}, {}, None)
    with directory.open_checkpoints(2, "top1", read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 1


@pytest.mark.parametrize("name", ["sweep[lr=0.1]", "run?", "run*", "a**b", "[ab]"])
def test_checkpoint_in_a_directory_named_like_a_pattern_is_restored(tmp_path, single_device, name):
    """Orbax finds its own files by `epath.Path.glob`, which takes the whole path for a pattern."""
    saved = {"params": np.arange(3, dtype=np.float32)}
    directory = WorkDir(str(tmp_path / name))
    directory.make()
    with directory.open_checkpoints(2, "top1") as checkpoints:
        checkpoints.save(1, saved, {}, None)
    with directory.open_checkpoints(2, "top1", read_only=True) as checkpoints:
        restored, _ = checkpoints.restore(1, parallel.abstract(saved, parallel.replicated(single_device)))
    np.testing.assert_array_equal(restored["params"], saved["params"])


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("", "the path of the workdir is empty. Name a directory."),
        ("/tmp/run\udcff", r"the path of the workdir ('/tmp/run\udcff') is not UTF-8. Choose another path."),
        ("/tmp\\run", r"the path of the workdir ('/tmp\\run') contains '\\'. Choose another path."),
        ("gs://bucket/run[1]", "the path of the workdir ('gs://bucket/run[1]') contains '['. Choose another path."),
        ("/gs/run", "the workdir /gs/run would be taken for gs://run. Choose another --workdir."),
        ("http://run", "the workdir http://run is neither a local path nor in a bucket ('http://'). Choose another"),
    ],
)
def test_path_that_a_library_would_misread_is_refused(path, sentence):
    with pytest.raises(UserError) as error:
        WorkDir(path)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("lost", [False, True])
def test_checkpoints_stay_open_only_if_another_process_is_lost(tmp_path, monkeypatch, lost):
    """Closing would wait for that process forever."""
    closed = []
    monkeypatch.setattr("resnet_jax.runtime.cluster.is_process_loss", lambda error: lost)
    monkeypatch.setattr("resnet_jax.workdir.checkpoints.Checkpoints.close", lambda self: closed.append(self))
    with pytest.raises(ZeroDivisionError), WorkDir(str(tmp_path)).open_checkpoints(2, "top1"):
        1 / 0  # noqa: B018  Any error will do.
    assert len(closed) == (0 if lost else 1)
