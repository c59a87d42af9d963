import jax
import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax import parallel
from resnet_jax.errors import UserError
from resnet_jax.lock import locked
from resnet_jax.workdir import WorkDir


def open_workdir(path, keep=2, best_metric="top1"):
    directory = WorkDir(str(path))
    directory.make()
    directory.open_checkpoints(keep, best_metric)
    return directory


def weights(seed):
    generator = np.random.default_rng(seed)
    return {"params": {"conv": {"kernel": generator.normal(size=(3, 3, 4, 5)).astype(np.float32)}}, "batch_stats": {}}


@pytest.mark.parametrize("saved_on", ["mesh", "single_device"])
def test_restores_bit_for_bit_whatever_the_number_of_devices(tmp_path, request, mesh, single_device, saved_on):
    directory = open_workdir(tmp_path)
    saved = parallel.place(weights(0), parallel.replicated(request.getfixturevalue(saved_on)))
    directory.save(5, parallel.fetch(saved), {"seconds": 0.1}, None)
    directory.wait()
    for devices in (single_device, mesh):
        placement = parallel.replicated(devices)
        restored, host = directory.restore(5, parallel.abstract(saved, placement))
        kernel = restored["params"]["conv"]["kernel"]
        assert kernel.sharding == placement
        np.testing.assert_array_equal(kernel, weights(0)["params"]["conv"]["kernel"])
        assert restored["batch_stats"] == {}
        assert host == {"seconds": 0.1}


def test_keeps_the_newest_and_the_best(tmp_path):
    directory = open_workdir(tmp_path, keep=2)
    for step, top1 in [(1, 0.5), (2, 0.9), (3, 0.9), (4, 0.2), (5, None), (6, 0.1), (7, None)]:
        directory.save(step, weights(step), {}, None if top1 is None else {"top1": top1, "loss": 1 - top1})
    directory.wait()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [3, 6, 7]
    assert directory.best().step == directory.chosen_step() == 3  # The later of two equals.
    assert directory.latest_step() == 7


def test_best_by_loss_is_the_lowest(tmp_path):
    directory = open_workdir(tmp_path, keep=1, best_metric="loss")
    for step, loss in [(1, 0.5), (2, 0.1), (3, 0.3)]:
        directory.save(step, weights(step), {}, {"top1": 0.0, "loss": loss})
    directory.wait()
    assert directory.best() == (2, {"top1": 0.0, "loss": 0.1})


def test_figures_that_are_not_finite_are_never_the_best(tmp_path):
    directory = open_workdir(tmp_path, keep=1, best_metric="loss")
    for step, loss in [(1, float("nan")), (2, 0.5), (3, float("nan")), (4, 0.9)]:
        directory.save(step, weights(step), {}, {"top1": 0.0, "loss": loss})
    directory.wait()
    assert directory.best().step == 2
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4]


def test_reading_only_leaves_an_interrupted_save_alone(tmp_path):
    directory = open_workdir(tmp_path)
    directory.save(1, weights(1), {}, None)
    directory.close()
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    reader = WorkDir(str(tmp_path))
    reader.open_checkpoints(2, "top1", read_only=True)
    assert reader.latest_step() == 1
    assert unfinished.exists()


def test_without_figures_the_last_is_chosen(tmp_path):
    directory = open_workdir(tmp_path)
    assert directory.chosen_step() is None
    directory.save(3, weights(3), {}, None)
    directory.wait()
    assert directory.best() is None
    assert directory.chosen_step() == 3


def test_a_digest_that_differs_is_an_error_that_names_the_array(tmp_path, single_device, monkeypatch):
    """Orbax restores flipped bits silently; here one bit differs between what was saved and what is restored."""
    directory = open_workdir(tmp_path)
    directory.save(1, weights(0), {}, None)
    directory.wait()
    restore = directory._manager.restore

    def restore_with_flipped_bit(*arguments, **keywords):
        restored = restore(*arguments, **keywords)
        kernel = np.array(restored["params"]["conv"]["kernel"])
        kernel.view(np.uint32)[0, 0, 0, 0] ^= 1
        restored["params"]["conv"]["kernel"] = kernel
        return restored

    monkeypatch.setattr(directory._manager, "restore", restore_with_flipped_bit)
    wanted = parallel.abstract(weights(0), parallel.replicated(single_device))
    with pytest.raises(UserError, match=r"checkpoint 1 cannot be read .*params\['conv'\]\['kernel'\]"):
        directory.restore(1, wanted)


def test_flipped_bytes_on_disk_never_restore_silently(tmp_path, single_device):
    directory = open_workdir(tmp_path)
    saved = {"params": np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)}
    directory.save(1, saved, {}, None)
    directory.wait()
    wanted = parallel.abstract(saved, parallel.replicated(single_device))
    refused = 0
    for path in (tmp_path / "checkpoints" / "1" / "params").rglob("*"):
        if path.is_file() and (intact := path.read_bytes()):
            flipped = bytearray(intact)
            flipped[len(flipped) // 2] ^= 0x10
            path.write_bytes(flipped)
            try:
                restored, _ = directory.restore(1, wanted)
                np.testing.assert_array_equal(restored["params"], saved["params"])
            except UserError as error:
                assert "checkpoint 1" in str(error)
                refused += 1
            path.write_bytes(intact)
    assert refused


@pytest.mark.parametrize("damage", ["truncate", "delete"])
@pytest.mark.parametrize("part", ["params", "host", "metrics"])
def test_missing_pieces_are_told_in_a_sentence(tmp_path, single_device, part, damage):
    directory = open_workdir(tmp_path)
    saved = {"params": np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)}
    directory.save(1, saved, {}, {"top1": 0.5, "loss": 1.0})
    directory.close()
    for path in (tmp_path / "checkpoints" / "1" / part).rglob("*"):
        if path.is_file() and damage == "truncate":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif path.is_file():
            path.unlink()
    reopened = WorkDir(str(tmp_path))
    try:
        reopened.open_checkpoints(2, "top1")
        restored, _ = reopened.restore(1, parallel.abstract(saved, parallel.replicated(single_device)))
        # Figures that are gone only cost the checkpoint its rank.
        assert part == "metrics"
        np.testing.assert_array_equal(restored["params"], saved["params"])
    except UserError as error:
        assert "cannot be read" in str(error)
        assert str(tmp_path / "checkpoints") in str(error)
        assert "\n" not in str(error)


def test_a_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch):
    directory = open_workdir(tmp_path)

    def full(*arguments, **keywords):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device\nmore")

    monkeypatch.setattr(directory._manager, "save", full)
    with pytest.raises(UserError, match=r"cannot save a checkpoint in .*No space left on device\): .*make room"):
        directory.save(1, weights(0), {}, None)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, single_device):
    directory = open_workdir(tmp_path)
    directory.save(1, weights(0), {}, None)
    directory.wait()
    other = {"params": {"dense": {"kernel": jax.ShapeDtypeStruct((2, 2), np.float32)}}}
    other = parallel.abstract(other, parallel.replicated(single_device))
    with pytest.raises(UserError, match="checkpoint 1 cannot be read"):
        directory.restore(1, other)


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


def test_relative_paths_are_made_absolute_and_addresses_left_alone(tmp_path, monkeypatch):
    """Orbax takes only absolute paths."""
    monkeypatch.chdir(tmp_path)
    directory = open_workdir("relative/run")
    directory.save(1, weights(0), {}, None)
    directory.wait()
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
