"""Whole runs of a tiny network, within this process, on eight devices."""

import json

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.data.sources import ArraySource
from resnet_jax.errors import UserError
from resnet_jax.run import load_run
from resnet_jax.workdir import WorkDir


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "run"


def test_leaves_a_run_directory_with_all_that_it_promises(tiny_config, workdir, capsys):
    result = resnet_jax.train(tiny_config, str(workdir))
    assert result["test"]["examples"] == 100  # The whole split, its partial last batch included.
    assert result["validation"]["examples"] == 40
    assert {"config.json", "classes.json", "checkpoints", "metrics.jsonl", "result.json"} <= {
        path.name for path in workdir.iterdir()
    }
    assert json.loads((workdir / "result.json").read_text()) == result
    assert [record["step"] for record in records(workdir) if "train/loss" in record] == [2, 4, 6, 8, 10]
    assert [record["step"] for record in records(workdir) if "validation/loss" in record] == [5, 10]
    output = capsys.readouterr().out
    for part in ("optimizer.learning_rate", "total", "Examples: 360 for training, 40 for validation.", str(workdir)):
        assert part in output


def test_the_checkpoint_that_is_scored_is_the_best_on_validation(tiny_config, workdir):
    tiny_config.num_epochs, tiny_config.checkpoint.keep = 4, 1
    result = resnet_jax.train(tiny_config, str(workdir))
    validation = {
        record["step"]: record["validation/top1"] for record in records(workdir) if "validation/top1" in record
    }
    best = max(validation.values())
    assert result["validation"]["top1"] == best
    assert result["checkpoint_step"] == max(step for step, top1 in validation.items() if top1 == best)
    assert load_run(str(workdir)).step == result["checkpoint_step"]


def test_a_finished_run_is_not_trained_again(tiny_config, workdir, capsys):
    result = resnet_jax.train(tiny_config, str(workdir))
    before = (workdir / "metrics.jsonl").read_text()
    assert resnet_jax.train(tiny_config, str(workdir)) == result
    assert (workdir / "metrics.jsonl").read_text() == before
    assert "This run is finished." in capsys.readouterr().out


def test_a_finished_run_can_be_lengthened(tiny_config, workdir, capsys):
    resnet_jax.train(tiny_config, str(workdir))
    tiny_config.num_epochs = 3
    resnet_jax.train(tiny_config, str(workdir))
    output = capsys.readouterr().out
    assert "The schedule now spans 3 epochs instead of 2." in output
    assert "Resuming from step 10 of 15" in output
    assert [record["step"] for record in records(workdir) if "validation/loss" in record] == [5, 10, 15]


def test_a_workdir_of_another_run_is_refused(tiny_config, workdir):
    resnet_jax.train(tiny_config, str(workdir))
    tiny_config.optimizer.learning_rate = 0.05
    with pytest.raises(UserError, match=r"differs in optimizer.learning_rate \(there 0.1, here 0.05\)"):
        resnet_jax.train(tiny_config, str(workdir))


def test_without_validation_the_last_checkpoint_is_scored(tiny_config, workdir):
    tiny_config.dataset.validation_split = "none"
    result = resnet_jax.train(tiny_config, str(workdir))
    assert result["validation"] is None
    assert result["checkpoint_step"] == 2 * (400 // 64)
    assert not any("validation/loss" in record for record in records(workdir))


def test_the_test_split_can_be_left_alone(tiny_config, workdir):
    tiny_config.dataset.test_split = "none"
    assert resnet_jax.train(tiny_config, str(workdir))["test"] is None


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint_before_it(tiny_config, workdir):
    """The rate is harmless in the warm-up's first epoch and hopeless after it."""
    tiny_config.num_epochs = 4
    tiny_config.schedule.name, tiny_config.schedule.step_epochs = "step", (1.0,)
    tiny_config.schedule.step_factor = 1e20
    with pytest.raises(UserError, match=r"(loss|gradient norm) became (nan|inf) at step \d+"):
        resnet_jax.train(tiny_config, str(workdir))
    run = load_run(str(workdir))
    assert run.step == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))
    assert WorkDir(str(workdir)).result() is None


def test_trains_on_ones_own_source(tiny_config, workdir):
    """Two classes of pictures that differ in brightness, which any network learns."""
    generator = np.random.default_rng(0)

    def source(size):
        labels = np.arange(size) % 2
        images = generator.integers(0, 100, (size, 12, 12, 3)) + 120 * labels[:, None, None, None]
        return ArraySource(images.astype(np.uint8), labels, ("dark", "bright"))

    tiny_config.dataset.name = "brightness"
    tiny_config.dataset.train_split, tiny_config.dataset.test_split = "train", "test"
    tiny_config.num_epochs = 3
    result = resnet_jax.train(tiny_config, str(workdir), {"train": source(600), "test": source(130)})
    assert result["test"]["top1"] == 1.0
    assert result["test"]["examples"] == 130
    assert json.loads((workdir / "classes.json").read_text()) == ["dark", "bright"]


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_a_profiler_trace_is_written(tiny_config, workdir, steps_per_call):
    """Also where no call begins within the steps, but one takes them."""
    tiny_config.profile_steps, tiny_config.steps_per_call = "2:4", steps_per_call
    resnet_jax.train(tiny_config, str(workdir))
    (trace,) = workdir.glob("plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 10_000
