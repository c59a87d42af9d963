"""The worker of verify_resume with the tiny model, in this process, on eight devices."""

import json
import os
import signal

import pytest

from resnet_jax import config as settings
from resnet_jax.diagnostics.resume_worker import PROGRESS, Job, watched_run
from resnet_jax.workdir.workdir import WorkDir


@pytest.fixture
def watch(tiny_config, tmp_path):
    """Return a function that runs the worker up to `stop_at` or `kill_at`. An epoch has five steps."""
    return lambda **ends: watched_run(
        Job(settings.to_json(tiny_config), str(tmp_path / "run"), str(tmp_path / "notes"), **ends)
    )


@pytest.fixture
def notes(tmp_path):
    """Return a function that reads what the worker has noted about each call of the train step."""
    return lambda: [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]


@pytest.mark.slow
def test_worker_stops_after_a_whole_call_of_several_steps(tiny_config, tmp_path, watch, notes, capsys):
    tiny_config.steps_per_call = 3
    watch(stop_at=6)
    printed = capsys.readouterr().out.splitlines()
    assert list(filter(PROGRESS.fullmatch, printed)) == [f"step {step} of 6" for step in (3, 4, 5, 8)]
    assert [call["steps"] for call in notes()] == [[0, 1, 2], [3], [4], [5, 6, 7]]
    assert len(notes()[0]["examples"][2]) == len(notes()[0]["images"][2]) == 64
    directory = WorkDir(str(tmp_path / "run"))
    with directory.open_checkpoints(2, "top1", read_only=True) as checkpoints:
        assert (checkpoints.latest_step(), directory.result()) == (8, None)


def test_worker_stops_at_the_end_of_the_run_if_that_comes_first(tiny_config, watch, notes):
    tiny_config.num_epochs = 1
    watch(stop_at=100)
    assert notes()[-1]["steps"] == [4]


def test_worker_is_killed_before_the_given_step(watch, notes, monkeypatch):
    def kill(pid, number):
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        raise SystemExit

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(SystemExit):
        watch(kill_at=2)
    assert [call["steps"] for call in notes()] == [[0], [1]]
