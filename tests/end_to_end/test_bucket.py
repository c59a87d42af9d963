"""A run whose workdir is a bucket of Google Cloud Storage, as on a TPU pod; a server of our own stands in for it."""

import json
import re
import signal
import subprocess

import pytest

from tests.end_to_end.fake_storage import FakeStorage, Object
from tests.end_to_end.program import SHORT_DIGITS, run, start
from tests.faults.comparison import assert_equal_runs

WORKDIR = "--workdir=gs://bucket/run"


@pytest.fixture
def storage(tmp_path):
    with FakeStorage(str(tmp_path / "authority.pem")).serving() as storage:
        yield storage


def saved_steps(storage):
    """There is no renaming in a bucket: Orbax marks what is complete."""
    found = (re.fullmatch(r"run/checkpoints/(\d+)/commit_success.txt", name) for name in storage.objects)
    return sorted(int(match[1]) for match in found if match)


def run_until(storage, name, signum):
    """A run that gets the signal when a file of its checkpoint of step 16, of 32, has been written."""
    process = start(*SHORT_DIGITS, WORKDIR, **storage.environment)
    storage.when_written[f"run/checkpoints/16/{name}"] = lambda: process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def flip_a_bit(storage, step):
    """Of the parameters of a checkpoint."""
    name = max(
        (name for name in storage.objects if name.startswith(f"run/checkpoints/{step}/params/")),
        key=lambda name: len(storage.objects[name].content),
    )
    content, generation = storage.objects[name]
    middle = len(content) // 2
    changed = bytes([content[middle] ^ 1])
    storage.objects[name] = Object(content[:middle] + changed + content[middle + 1 :], generation + 1_000_000)


def download(storage, place):
    for name, (content, _) in storage.objects.items():
        if not name.endswith("/"):
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return place / "run"


@pytest.mark.slow
def test_a_run_is_killed_stopped_damaged_and_goes_on_to_the_same_parameters(tmp_path, storage, finished_run):
    killed = run_until(storage, "_CHECKPOINT_METADATA", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert saved_steps(storage) == [8]

    stopped = run_until(storage, "commit_success.txt", signal.SIGTERM)
    assert stopped.returncode == 75, stopped.stderr
    assert "Resuming from step 8 of 32 in gs://bucket/run" in stopped.stdout
    assert "run/result.json" not in storage.objects

    newest, before = saved_steps(storage)[-1], saved_steps(storage)[-2]
    flip_a_bit(storage, newest)
    resumed = run(*SHORT_DIGITS, WORKDIR, **storage.environment)
    assert resumed.returncode == 0, resumed.stderr
    assert f"Checkpoint {newest} is damaged" in resumed.stdout
    assert f"Resuming from step {before} of" in resumed.stdout
    assert any(name.startswith(f"run/damaged/{newest}/") for name in storage.objects)

    evaluated = run("evaluate", WORKDIR, "--format=json", **storage.environment)
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads((finished_run / "result.json").read_text())
    assert json.loads(evaluated.stdout.splitlines()[-1])["top1"] == result["test"]["top1"]
    assert_equal_runs(download(storage, tmp_path), finished_run)
    assert storage.not_understood == []
