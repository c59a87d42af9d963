import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.workdir.checkpoints import Checkpoints


def opened(path, keep=2, best_metric="top1"):
    return Checkpoints(epath.Path(path), keep, best_metric)


def weights(seed):
    generator = np.random.default_rng(seed)
    return {"params": {"conv": {"kernel": generator.normal(size=(3, 3, 4, 5)).astype(np.float32)}}, "batch_stats": {}}


@pytest.mark.parametrize("saved_on", ["mesh", "single_device"])
def test_restore_is_exact_on_any_number_of_devices(tmp_path, request, mesh, single_device, saved_on):
    checkpoints = opened(tmp_path)
    saved = parallel.place(weights(0), parallel.replicated(request.getfixturevalue(saved_on)))
    checkpoints.save(5, parallel.fetch(saved), {"seconds": 0.1}, None)
    checkpoints.wait()
    for devices in (single_device, mesh):
        placement = parallel.replicated(devices)
        restored, metadata = checkpoints.restore(5, parallel.abstract(saved, placement))
        kernel = restored["params"]["conv"]["kernel"]
        assert kernel.sharding == placement
        np.testing.assert_array_equal(kernel, weights(0)["params"]["conv"]["kernel"])
        assert restored["batch_stats"] == {}
        assert metadata == {"seconds": 0.1}


def test_newest_and_best_checkpoints_are_kept(tmp_path):
    checkpoints = opened(tmp_path, keep=2)
    for step, top1 in [(1, 0.5), (2, 0.9), (3, 0.9), (4, 0.2), (5, None), (6, 0.1), (7, None)]:
        checkpoints.save(step, weights(step), {}, None if top1 is None else {"top1": top1, "loss": 1 - top1})
    checkpoints.wait()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [3, 6, 7]
    assert (
        checkpoints.metrics.best().step == checkpoints.chosen_step() == 3
    )  # With equal metrics, the later step is better.
    assert checkpoints.latest_step() == 7


def test_best_checkpoint_by_loss_has_the_lowest_loss(tmp_path):
    checkpoints = opened(tmp_path, keep=1, best_metric="loss")
    for step, loss in [(1, 0.5), (2, 0.1), (3, 0.3)]:
        checkpoints.save(step, weights(step), {}, {"top1": 0.0, "loss": loss})
    checkpoints.wait()
    assert checkpoints.metrics.best() == (2, {"top1": 0.0, "loss": 0.1})


def test_non_finite_metrics_are_never_best(tmp_path):
    checkpoints = opened(tmp_path, keep=1, best_metric="loss")
    for step, loss in [(1, float("nan")), (2, 0.5), (3, float("nan")), (4, 0.9)]:
        checkpoints.save(step, weights(step), {}, {"top1": 0.0, "loss": loss})
    checkpoints.wait()
    assert checkpoints.metrics.best().step == 2
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4]


def test_read_only_leaves_an_interrupted_save_untouched(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(1), {}, None)
    checkpoints.close()
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    reader = Checkpoints(epath.Path(tmp_path), 2, "top1", read_only=True)
    assert reader.latest_step() == 1
    assert unfinished.exists()


def test_last_checkpoint_is_chosen_without_metrics(tmp_path):
    checkpoints = opened(tmp_path)
    assert checkpoints.chosen_step() is None
    checkpoints.save(3, weights(3), {}, None)
    checkpoints.wait()
    assert checkpoints.metrics.best() is None
    assert checkpoints.chosen_step() == 3


def test_wrong_digest_error_names_the_array(tmp_path, single_device, monkeypatch):
    """Orbax restores flipped bits without an error. The test flips a bit in what Orbax returns."""
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(0), {}, None)
    checkpoints.wait()
    restore = checkpoints._manager.restore

    def restore_with_flipped_bit(*arguments, **keywords):
        restored = restore(*arguments, **keywords)
        kernel = np.array(restored["params"]["conv"]["kernel"])
        kernel.view(np.uint32)[0, 0, 0, 0] ^= 1
        restored["params"]["conv"]["kernel"] = kernel
        return restored

    monkeypatch.setattr(checkpoints._manager, "restore", restore_with_flipped_bit)
    wanted = parallel.abstract(weights(0), parallel.replicated(single_device))
    with pytest.raises(UserError, match=r"checkpoint 1 cannot be read .*params\['conv'\]\['kernel'\]"):
        checkpoints.restore(1, wanted)


def test_flipped_bytes_on_disk_never_restore_silently(tmp_path, single_device):
    checkpoints = opened(tmp_path)
    saved = {"params": np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)}
    checkpoints.save(1, saved, {}, None)
    checkpoints.wait()
    wanted = parallel.abstract(saved, parallel.replicated(single_device))
    refused = 0
    for path in (tmp_path / "checkpoints" / "1" / "params").rglob("*"):
        if path.is_file() and (intact := path.read_bytes()):
            flipped = bytearray(intact)
            flipped[len(flipped) // 2] ^= 0x10
            path.write_bytes(flipped)
            try:
                restored, _ = checkpoints.restore(1, wanted)
                np.testing.assert_array_equal(restored["params"], saved["params"])
            except UserError as error:
                assert "checkpoint 1" in str(error)
                refused += 1
            path.write_bytes(intact)
    assert refused


@pytest.mark.parametrize("damage", ["truncate", "delete"])
@pytest.mark.parametrize("item", ["params", "host"])
def test_incomplete_checkpoint_is_reported_in_one_line(tmp_path, single_device, item, damage):
    checkpoints = opened(tmp_path)
    saved = {"params": np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)}
    checkpoints.save(1, saved, {}, {"top1": 0.5, "loss": 1.0})
    checkpoints.close()
    for path in (tmp_path / "checkpoints" / "1" / item).rglob("*"):
        if path.is_file() and damage == "truncate":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif path.is_file():
            path.unlink()
    reopened = Checkpoints(epath.Path(tmp_path), 2, "top1")
    with pytest.raises(UserError) as error:
        reopened.restore(1, parallel.abstract(saved, parallel.replicated(single_device)))
    assert "checkpoint 1 cannot be read" in str(error.value)
    assert str(tmp_path / "checkpoints" / "1") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_damaged_metrics_file_is_reported_and_chooses_no_checkpoint(tmp_path, damage):
    checkpoints = opened(tmp_path)
    for step, top1 in ((1, 0.9), (2, 0.5)):
        checkpoints.save(step, weights(step), {}, {"top1": top1, "loss": 1.0})
    checkpoints.close()
    path = tmp_path / "figures.json"
    text = path.read_text()
    path.write_text(text[:-5] if damage == "truncated" else text.replace("0.9", "0.1"))
    with pytest.raises(UserError, match=rf"{path} is damaged .*remove it to use the last checkpoint as the best"):
        opened(tmp_path)
    path.unlink()
    assert opened(tmp_path).chosen_step() == 2


@pytest.mark.parametrize("evaluated", [True, False])
def test_missing_metrics_file_is_reported(tmp_path, caplog, evaluated):
    checkpoints = opened(tmp_path)
    for step, top1 in ((1, 0.9), (2, 0.5)):
        checkpoints.save(step, weights(step), {}, {"top1": top1, "loss": 1.0} if evaluated else None)
    checkpoints.close()
    opened(tmp_path)
    assert not caplog.text
    (tmp_path / "figures.json").unlink()
    assert opened(tmp_path).chosen_step() == 2
    assert f"{tmp_path}/figures.json is missing, so the newest checkpoint (2) counts as the best." in caplog.text


def test_missing_best_checkpoint_is_reported(tmp_path, caplog):
    checkpoints = opened(tmp_path)
    for step, top1 in ((1, 0.9), (2, 0.5)):
        checkpoints.save(step, weights(step), {}, {"top1": top1, "loss": 1.0})
    checkpoints.close()
    shutil.rmtree(tmp_path / "checkpoints" / "1")
    assert opened(tmp_path).chosen_step() == 2
    assert "Checkpoint 1 has the best validation metrics, but is not on disk." in caplog.text


@pytest.mark.parametrize("read_only", [False, True])
def test_next_best_checkpoint_is_restored_if_the_best_is_damaged_and_may_be_set_aside(
    tmp_path, single_device, caplog, read_only
):
    checkpoints = opened(tmp_path, keep=4)
    for step, top1 in ((1, 0.5), (2, 0.9), (3, 0.8), (4, None)):
        checkpoints.save(step, weights(step), {}, None if top1 is None else {"top1": top1, "loss": 1.0})
    checkpoints.close()
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "params")
    wanted = parallel.abstract(weights(0), parallel.replicated(single_device))
    reopened = Checkpoints(epath.Path(tmp_path), 4, "top1", read_only)
    if read_only:
        with pytest.raises(UserError, match=rf"checkpoint 2 cannot be read .* remove {tmp_path}/checkpoints/2 to use"):
            reopened.restore_chosen(wanted)
        assert (tmp_path / "checkpoints" / "2").exists()
        return
    step, restored, _ = reopened.restore_chosen(wanted)
    assert step == reopened.chosen_step() == reopened.metrics.best().step == 3
    np.testing.assert_array_equal(restored["params"]["conv"]["kernel"], weights(3)["params"]["conv"]["kernel"])
    assert (tmp_path / "damaged" / "2").exists()
    assert f"It was moved to {tmp_path}/damaged/2. Checkpoint 3 is used instead." in caplog.text
    caplog.clear()
    assert opened(tmp_path).chosen_step() == 3
    assert not caplog.text


def test_metrics_of_deleted_checkpoints_are_not_the_best_after_the_best_is_set_aside(tmp_path, single_device, caplog):
    checkpoints = opened(tmp_path, keep=1)
    for step, top1 in ((1, 0.9), (2, 0.8), (3, 0.5)):
        checkpoints.save(step, weights(step), {}, {"top1": top1, "loss": 1.0})
    checkpoints.wait()
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "params")
    step, _, _ = checkpoints.restore_chosen(parallel.abstract(weights(0), parallel.replicated(single_device)))
    assert step == checkpoints.metrics.best().step == 3
    checkpoints.close()
    caplog.clear()
    assert opened(tmp_path).chosen_step() == 3
    assert not caplog.text


def test_metrics_can_be_added_to_a_saved_checkpoint(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(1), {}, None)
    checkpoints.close()
    reopened = opened(tmp_path)
    assert 1 not in reopened.metrics
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "1").rglob("*")}
    reopened.save(1, weights(1), {}, {"top1": 0.5, "loss": 1.0})
    reopened.close()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "1").rglob("*")}
    assert opened(tmp_path).metrics.best() == (1, {"top1": 0.5, "loss": 1.0})


def test_metrics_of_an_unfinished_checkpoint_are_ignored(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(1), {}, {"top1": 0.5, "loss": 1.0})
    checkpoints.save(2, weights(2), {}, {"top1": 0.9, "loss": 0.1})
    checkpoints.close()
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    reopened = opened(tmp_path)
    assert (reopened.metrics.best().step, 2 in reopened.metrics) == (1, False)


def test_full_disk_is_reported_in_one_sentence(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path)

    def raise_disk_full(*arguments, **keywords):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device\nmore")

    monkeypatch.setattr(checkpoints._manager, "save", raise_disk_full)
    with pytest.raises(UserError, match=r"cannot save a checkpoint in .*No space left on device\)\. .*free some space"):
        checkpoints.save(1, weights(0), {}, None)


def test_save_that_leaves_arrays_nobody_can_find_is_reported(tmp_path, monkeypatch):
    """Orbax only logs that it found nothing to merge."""
    monkeypatch.setattr(type(epath.Path()), "glob", lambda path, pattern: iter(()))
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(0), {}, None)
    with pytest.raises(UserError, match=r"cannot save a checkpoint in .*1/params/manifest.ocdbt"):
        checkpoints.wait()


def test_checkpoint_of_another_model_is_refused(tmp_path, single_device):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(0), {}, None)
    checkpoints.wait()
    other = {"params": {"dense": {"kernel": jax.ShapeDtypeStruct((2, 2), np.float32)}}}
    other = parallel.abstract(other, parallel.replicated(single_device))
    with pytest.raises(UserError, match="checkpoint 1 cannot be read"):
        checkpoints.restore(1, other)


def test_missing_bucket_package_is_reported_with_its_extra(tmp_path, monkeypatch):
    def manager(*_, **__):
        raise ImportError("cannot import name 'storage' from 'google.cloud'")

    monkeypatch.setattr(ocp, "CheckpointManager", manager)
    with pytest.raises(UserError, match=r'needs google-cloud-storage, .* pip install "\.\[gcs\]"'):
        opened(tmp_path)
