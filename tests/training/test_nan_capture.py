"""Capture of the step whose loss or gradient norm is not finite."""

import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

import resnet_jax
from resnet_jax.data.sources import open_sources
from resnet_jax.diagnostics import replay
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as experiments
from resnet_jax.training import nan_capture
from resnet_jax.training.nan_triage import StepValue, first_not_finite
from resnet_jax.training.train_step import compile_train_steps
from resnet_jax.workdir.workdir import WorkDir


@pytest.fixture
def breaking_config(tiny_config):
    """A config whose learning rate is harmless in the first epoch of five steps, and far too large in the second."""
    tiny_config.num_epochs, tiny_config.log_every_steps = 3, 4
    tiny_config.schedule.name, tiny_config.schedule.step_epochs = "step", (1.0,)
    tiny_config.schedule.step_factor = 1e20
    tiny_config.ema_decay = 0.9
    return tiny_config


def train_until_not_finite(config, workdir) -> tuple[int, str]:
    """Train until the run fails. Return the step that the error names, and the error's message."""
    with pytest.raises(UserError, match=r"became (nan|inf) at step \d+") as raised:
        resnet_jax.train(config, str(workdir))
    return int(re.search(r"at step (\d+)", str(raised.value))[1]), str(raised.value)


def state_and_batch_before(config, calls, step):
    """Return state and batch before `step`, after calls that take the given numbers of steps."""
    experiment = experiments.build(
        config, parallel.make_mesh(), open_sources("digits"), Reporter(active=False, max_unreadable=0)
    )
    calls = [experiment.call(0)._replace(num_steps=count) for count in calls]
    steps, state, done = compile_train_steps(experiment, set(calls)), experiment.initial_state(), 0
    for call in calls:
        state, _ = steps[call](state, experiment.feed.inputs(done))
        done += call.num_steps
    assert done == step
    return parallel.fetch(state), parallel.fetch(experiment.batch_at(step))


def assert_is_saved(workdir, state, batch):
    saved = safetensors.numpy.load_file(workdir / "nan" / "state.safetensors")
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.checkpoint_items)
    expected = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    assert saved.keys() == expected.keys()
    assert {name.partition("/")[0] for name in saved} == {"params", "batch_stats", "opt_state", "ema"}
    for name in expected:
        np.testing.assert_array_equal(saved[name], expected[name], err_msg=name, strict=True)
    images, labels = batch
    saved = safetensors.numpy.load_file(workdir / "nan" / "batch.safetensors")
    np.testing.assert_array_equal(saved["images"], images, strict=True)
    np.testing.assert_array_equal(saved["labels"], labels, strict=True)


def test_capture_saves_state_batch_and_first_non_finite_value(breaking_config, tmp_path, capsys):
    """State and batch are bit-identical to those of a run stopped before the step."""
    breaking_config.loss.class_weights = "balanced"  # The replay does not open the dataset.
    step, message = train_until_not_finite(breaking_config, tmp_path)
    assert 5 < step < 10
    assert_is_saved(tmp_path, *state_and_batch_before(breaking_config, [1] * step, step))
    record = json.loads((tmp_path / "nan" / "nan.json").read_text())
    assert record["step"] == step
    assert f"The first non-finite value of the step is in {record['first_not_finite']}." in message
    assert f"python main.py debug_nan --workdir={tmp_path}" in message
    assert "Replaying the preceding steps" in capsys.readouterr().out
    broken = replay.load(WorkDir(str(tmp_path)))
    assert (broken.step, broken.first, broken.state.step) == (step, record["first_not_finite"], step)
    assert len(broken.class_weights) == 10
    directory = WorkDir(str(tmp_path))
    values = replay.replay(broken, directory.config(), directory.classes())
    assert str(first_not_finite(values)) == broken.first


@pytest.mark.slow
def test_capture_works_within_a_call_of_several_steps(breaking_config, tmp_path):
    """The call takes three steps, and there is no checkpoint yet."""
    breaking_config.steps_per_call, breaking_config.schedule.step_epochs = 3, (0.2,)
    step, _ = train_until_not_finite(breaking_config, tmp_path)
    assert 1 < step < 5
    calls = {1: [1], 2: [2], 3: [3], 4: [3, 1]}[step]
    assert_is_saved(tmp_path, *state_and_batch_before(breaking_config, calls, step))


@pytest.mark.slow
def test_step_with_small_images_is_replayed_at_their_size(breaking_config, tmp_path):
    breaking_config.augment.progressive_resizing = ("6=1.0",)
    step, _ = train_until_not_finite(breaking_config, tmp_path)
    assert_is_saved(tmp_path, *state_and_batch_before(breaking_config, [1] * step, step))
    directory = WorkDir(str(tmp_path))
    broken = replay.load(directory)
    assert broken.image_size == 6
    assert str(first_not_finite(replay.replay(broken, directory.config(), directory.classes()))) == broken.first


def test_resumed_run_captures_the_same_step(breaking_config, tmp_path):
    first_failure = train_until_not_finite(breaking_config, tmp_path)
    files = [tmp_path / "nan" / name for name in ("state.safetensors", "batch.safetensors")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(b"of another step")
    assert train_until_not_finite(breaking_config, tmp_path) == first_failure
    assert [file.read_bytes() for file in files] == before


@pytest.mark.slow
def test_capture_works_with_distillation(breaking_config, tmp_path):
    """The run also has soft labels and a frozen stem."""
    teacher = breaking_config.copy_and_resolve_references()
    teacher.num_epochs = 1
    resnet_jax.train(teacher, str(tmp_path / "teacher"))
    breaking_config.loss.distill_from, breaking_config.augment.mixup = str(tmp_path / "teacher"), 0.2
    breaking_config.freeze = ("stem*",)
    step, _ = train_until_not_finite(breaking_config, tmp_path / "student")
    assert_is_saved(tmp_path / "student", *state_and_batch_before(breaking_config, [1] * step, step))
    directory = WorkDir(str(tmp_path / "student"))
    broken = replay.load(directory)
    assert broken.labels.shape == (64, 10)
    assert str(first_not_finite(replay.replay(broken, directory.config(), directory.classes()))) == broken.first


def test_failed_save_does_not_hide_the_error(breaking_config, tmp_path, monkeypatch):
    def raise_disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nan_capture, "_save", raise_disk_full)
    _, message = train_until_not_finite(breaking_config, tmp_path)
    assert "could not be analyzed ([Errno 28] No space left on device)" in message
    assert "Earlier checkpoints are intact" in message


def test_error_says_if_the_step_is_finite_when_replayed(breaking_config, tmp_path, monkeypatch):
    monkeypatch.setattr(nan_capture, "triage", lambda *_: [StepValue("result", "loss", 1.0, 0.0)])
    _, message = train_until_not_finite(breaking_config, tmp_path)
    assert "When the step was replayed, all its values were finite" in message
    assert replay.load(WorkDir(str(tmp_path))).first is None


def test_load_without_saved_step_is_an_error(tmp_path):
    with pytest.raises(UserError, match="contains no saved non-finite step"):
        replay.load(WorkDir(str(tmp_path)))


def test_load_of_damaged_files_is_an_error(tmp_path):
    (tmp_path / "nan").mkdir()
    (tmp_path / "nan" / "nan.json").write_text('{"step": 3, "first_not_finite": null}')
    for name in ("state.safetensors", "batch.safetensors"):
        (tmp_path / "nan" / name).write_bytes(b"nothing of the sort")
    with pytest.raises(UserError, match=r"cannot be read .*\. Remove it"):
        replay.load(WorkDir(str(tmp_path)))
