import contextlib
import json
import os
import re

import pytest

from resnet_jax.cli import recipe
from resnet_jax.data import sampling
from resnet_jax.data.sampling import epoch_order
from resnet_jax.diagnostics import verify_resume as verification
from resnet_jax.diagnostics.resume_worker import Job, watched_run
from resnet_jax.diagnostics.verify_resume import format_verdict, verify_resume
from resnet_jax.errors import UserError
from tests.conftest import ROOT
from tests.end_to_end.program import run

MIXED_AND_AVERAGED = ("--config.augment.mixup=0.2", "--config.ema_decay=0.9")


@pytest.mark.parametrize("requested", [(2, 9), (7, 2), (0, 2)])
def test_interruptions_at_which_no_call_begins_are_refused(requested):
    with pytest.raises(UserError, match=r"must be two increasing steps .* Choose from \[1, 2, 3"):
        verification._choose_interruptions(range(1, 9), requested)


class TestProcedure:
    """Verification with the tiny model in this process, where an exception stands for SIGKILL."""

    @pytest.fixture
    def verify(self, tiny_config, tmp_path, monkeypatch):
        """Return a function that calls `verify_resume`, and `spoil` before the last process of the interrupted run."""
        tiny_config.augment.mixup, tiny_config.ema_decay, tiny_config.num_epochs = 0.2, 0.9, 4

        def verify(*arguments, spoil=lambda: None):
            def run_here(job, files, show):
                if files.endswith("interrupted-3"):
                    spoil()
                with pytest.raises(SystemExit) if job.kill_at else contextlib.nullcontext():
                    watched_run(job)

            monkeypatch.setattr(verification, "_run", run_here)
            return verify_resume(tiny_config, str(tmp_path / "runs"), *arguments)

        def kill(pid, number):
            raise SystemExit

        monkeypatch.setattr(os, "kill", kill)
        return verify

    @pytest.mark.slow
    def test_verify_resume_finds_no_difference_in_pretraining(self, verify, tiny_config):
        """The method is the one with a moving average of the model as its target."""
        recipe_config = recipe.load(f"{ROOT}/configs/pretrain.py:byol")
        for section in ("augment", "pretrain", "optimizer", "ema_decay"):
            tiny_config[section] = recipe_config[section]
        tiny_config.augment.mixup, tiny_config.dataset.test_split = 0.0, "none"
        tiny_config.checkpoint.best_metric = tiny_config.early_stopping.metric = "knn"
        verdict = verify(9, (2, 7))
        assert verdict.differences == ()
        assert verdict.leaves > 50

    @pytest.mark.slow
    def test_verify_resume_finds_no_difference_with_the_ingredients_of_the_speedrun(self, verify, tiny_config):
        speedrun = recipe.load(f"{ROOT}/configs/cifar10_speedrun.py")
        for section in ("augment", "optimizer", "batch_norm", "freeze", "ema_decay"):
            tiny_config[section] = speedrun[section]
        tiny_config.model.stem, tiny_config.model.shortcut = "whitening", "projection"
        tiny_config.model.activation = "gelu"
        tiny_config.augment.progressive_resizing = ("6=0.5",)
        verdict = verify(9, (2, 7))
        assert verdict.differences == ()

    @pytest.mark.slow
    def test_verify_resume_finds_no_difference_with_balanced_classes(self, verify, tiny_config):
        tiny_config.dataset.sampler = "balanced"
        tiny_config.loss.update(class_weights="balanced", focal_gamma=2.0)
        verdict = verify(9, (2, 7))
        assert (verdict.steps, verdict.stopped_at, verdict.killed_at, verdict.resumed_from) == (9, 2, 7, (2, 5))
        assert verdict.differences == ()
        assert verdict.leaves > 100
        assert verdict.provenance["backend"] == "cpu"

    @pytest.mark.slow
    def test_verify_resume_finds_no_difference_with_a_streaming_feed(self, verify, tiny_config):
        tiny_config.dataset.feed = "streaming"
        verdict = verify(9, (2, 7))
        assert verdict.differences == ()

    @pytest.mark.slow
    def test_verify_resume_finds_no_difference_in_a_federated_run(self, verify, tiny_config):
        tiny_config.ema_decay, tiny_config.log_every_steps = None, 1
        tiny_config.federated.update(partition="dirichlet", clients=3, batch_norm="local", server="momentum")
        tiny_config.federated.update(share=0.7, straggling=0.5, compression="int8")
        verdict = verify(4, (1, 3))
        assert verdict.differences == ()
        assert verdict.leaves > 60

    @pytest.mark.slow
    def test_verify_resume_names_the_leaves_that_differ(self, verify, monkeypatch):
        """`spoil` changes the order of the examples. By default, the run lasts two epochs."""

        def spoil():
            monkeypatch.setattr(sampling, "epoch_order", lambda seed, epoch, size: epoch_order(seed + 1, epoch, size))

        verdict = verify(None, (2, 7), spoil=spoil)
        assert verdict.steps == 12
        names = {difference.leaf for difference in verdict.differences}
        assert {"params/head/kernel", "batch_stats/stem_norm/mean", "metrics.jsonl/step 8/train/loss"} <= names
        assert {name for name in names if name.startswith("step ")} == {
            f"step {step}/{kind}" for step in range(5, 12) for kind in ("examples", "images")
        }
        assert not {"step", "metrics.jsonl/steps", "metrics.jsonl/step 4/train/loss"} & names
        assert f"{len(names):,} of {verdict.leaves:,} leaves differ" in format_verdict(verdict)
        assert re.search(r"^params/head/kernel +\d+ +\d+ +\d", format_verdict(verdict), re.MULTILINE)

    def test_verify_resume_rejects_too_few_steps_and_a_used_workdir(self, verify):
        with pytest.raises(UserError, match="Increase --steps"):
            verify(2)
        with pytest.raises(UserError, match="already holds runs"):
            verify(9)


def test_only_progress_lines_of_a_process_are_shown(tmp_path, monkeypatch):
    printed = [
        "",
        "optimizer.learning_rate  0.1",
        "Resuming from step 3 of 12.",
        "step 1,004 of 1,200",
        "epoch 1/2  step 5/12",
    ]
    monkeypatch.setattr(verification, "WORKER_CODE", f"print(*{printed}, sep=chr(10))")
    shown = []
    verification._run(Job("", "", ""), str(tmp_path / "run"), shown.append)
    assert shown == ["step 1,004 of 1,200"]


@pytest.mark.slow
def test_error_of_a_run_is_passed_on(tmp_path):
    finished = run("verify_resume", "--config=configs/digits.py", "--config.batch_size=5000", f"--workdir={tmp_path}")
    assert finished.returncode == 2
    assert "batch_size (5000) exceeds the number of training examples (1,295)" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


def verified(*arguments):
    finished = run("verify_resume", *arguments, *MIXED_AND_AVERAGED, "--format=json")
    assert finished.stdout, finished.stderr
    verdict = json.loads(finished.stdout.splitlines()[-1])
    assert verdict["differences"] == []
    assert finished.returncode == 0
    return verdict


@pytest.mark.slow
def test_resident_run_stopped_and_killed_at_random_steps_resumes_exactly():
    """The first epoch ends at step 8, and the run continues beyond it."""
    verdict = verified("--config=configs/digits.py", "--config.dataset.train_split=train[:600]", "--steps=12")
    assert verdict["steps"] == 12
    assert 0 < verdict["stopped_at"] < verdict["killed_at"] < 12
    assert verdict["resumed_from"][0] == verdict["stopped_at"] <= verdict["resumed_from"][1] <= verdict["killed_at"]
    # resnet20: 65 parameters with momentum and average, 42 statistics with average, and more.
    assert verdict["leaves"] > 3 * 65 + 2 * 42
    assert {"machine", "cpu_count", "jax", "jaxlib", "backend", "device", "device_count"} <= verdict[
        "provenance"
    ].keys()
