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
def test_restores_bit_for_bit_whatever_the_number_of_devices(tmp_path, request, mesh, single_device, saved_on):
    checkpoints = opened(tmp_path)
    saved = parallel.place(weights(0), parallel.replicated(request.getfixturevalue(saved_on)))
    checkpoints.save(5, parallel.fetch(saved), {"seconds": 0.1}, None)
    checkpoints.wait()
    for devices in (single_device, mesh):
        placement = parallel.replicated(devices)
        restored, host = checkpoints.restore(5, parallel.abstract(saved, placement))
        kernel = restored["params"]["conv"]["kernel"]
        assert kernel.sharding == placement
        np.testing.assert_array_equal(kernel, weights(0)["params"]["conv"]["kernel"])
        assert restored["batch_stats"] == {}
        assert host == {"seconds": 0.1}


def test_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = opened(tmp_path, keep=2)
    for step, top1 in [(1, 0.5), (2, 0.9), (3, 0.9), (4, 0.2), (5, None), (6, 0.1), (7, None)]:
        checkpoints.save(step, weights(step), {}, None if top1 is None else {"top1": top1, "loss": 1 - top1})
    checkpoints.wait()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [3, 6, 7]
    assert checkpoints.figures.best().step == checkpoints.chosen_step() == 3  # The later of two equals.
    assert checkpoints.latest_step() == 7


def test_best_by_loss_is_the_lowest(tmp_path):
    checkpoints = opened(tmp_path, keep=1, best_metric="loss")
    for step, loss in [(1, 0.5), (2, 0.1), (3, 0.3)]:
        checkpoints.save(step, weights(step), {}, {"top1": 0.0, "loss": loss})
    checkpoints.wait()
    assert checkpoints.figures.best() == (2, {"top1": 0.0, "loss": 0.1})


def test_figures_that_are_not_finite_are_never_the_best(tmp_path):
    checkpoints = opened(tmp_path, keep=1, best_metric="loss")
    for step, loss in [(1, float("nan")), (2, 0.5), (3, float("nan")), (4, 0.9)]:
        checkpoints.save(step, weights(step), {}, {"top1": 0.0, "loss": loss})
    checkpoints.wait()
    assert checkpoints.figures.best().step == 2
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4]


def test_reading_only_leaves_an_interrupted_save_alone(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(1), {}, None)
    checkpoints.close()
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    reader = Checkpoints(epath.Path(tmp_path), 2, "top1", read_only=True)
    assert reader.latest_step() == 1
    assert unfinished.exists()


def test_without_figures_the_last_is_chosen(tmp_path):
    checkpoints = opened(tmp_path)
    assert checkpoints.chosen_step() is None
    checkpoints.save(3, weights(3), {}, None)
    checkpoints.wait()
    assert checkpoints.figures.best() is None
    assert checkpoints.chosen_step() == 3


def test_a_digest_that_differs_is_an_error_that_names_the_array(tmp_path, single_device, monkeypatch):
    """Orbax restores flipped bits silently; here one bit differs between what was saved and what is restored."""
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
@pytest.mark.parametrize("part", ["params", "host"])
def test_missing_pieces_are_told_in_a_sentence(tmp_path, single_device, part, damage):
    checkpoints = opened(tmp_path)
    saved = {"params": np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)}
    checkpoints.save(1, saved, {}, {"top1": 0.5, "loss": 1.0})
    checkpoints.close()
    for path in (tmp_path / "checkpoints" / "1" / part).rglob("*"):
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
def test_damaged_figures_are_named_and_choose_no_checkpoint(tmp_path, damage):
    checkpoints = opened(tmp_path)
    for step, top1 in ((1, 0.9), (2, 0.5)):
        checkpoints.save(step, weights(step), {}, {"top1": top1, "loss": 1.0})
    checkpoints.close()
    path = tmp_path / "figures.json"
    text = path.read_text()
    path.write_text(text[:-5] if damage == "truncated" else text.replace("0.9", "0.1"))
    with pytest.raises(UserError, match=rf"{path} is damaged .*remove it to have the last checkpoint chosen"):
        opened(tmp_path)
    path.unlink()
    assert opened(tmp_path).chosen_step() == 2


def test_a_checkpoint_that_was_saved_before_its_evaluation_is_scored_later(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(1), {}, None)
    checkpoints.close()
    reopened = opened(tmp_path)
    assert 1 not in reopened.figures
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "1").rglob("*")}
    reopened.save(1, weights(1), {}, {"top1": 0.5, "loss": 1.0})
    reopened.close()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "1").rglob("*")}
    assert opened(tmp_path).figures.best() == (1, {"top1": 0.5, "loss": 1.0})


def test_figures_of_a_checkpoint_that_a_killed_process_did_not_finish_do_not_count(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(1), {}, {"top1": 0.5, "loss": 1.0})
    checkpoints.save(2, weights(2), {}, {"top1": 0.9, "loss": 0.1})
    checkpoints.close()
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    reopened = opened(tmp_path)
    assert (reopened.figures.best().step, 2 in reopened.figures) == (1, False)


def test_a_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path)

    def full(*arguments, **keywords):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device\nmore")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(UserError, match=r"cannot save a checkpoint in .*No space left on device\): .*make room"):
        checkpoints.save(1, weights(0), {}, None)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, single_device):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, weights(0), {}, None)
    checkpoints.wait()
    other = {"params": {"dense": {"kernel": jax.ShapeDtypeStruct((2, 2), np.float32)}}}
    other = parallel.abstract(other, parallel.replicated(single_device))
    with pytest.raises(UserError, match="checkpoint 1 cannot be read"):
        checkpoints.restore(1, other)


def test_a_bucket_without_the_package_for_it_is_told_in_a_sentence(tmp_path, monkeypatch):
    def manager(*_, **__):
        raise ImportError("cannot import name 'storage' from 'google.cloud'")

    monkeypatch.setattr(ocp, "CheckpointManager", manager)
    with pytest.raises(UserError, match=r"a package is missing \(.*'storage'.*\): .* pip install google-cloud-storage"):
        opened(tmp_path)
