"""A run with its workdir in a Google Cloud Storage bucket, as on a TPU pod. A local server emulates the bucket."""

import json
import re
import signal
import subprocess

import pytest

from tests.end_to_end.fake_storage import FakeStorage, Object
from tests.end_to_end.program import SHORT_DIGITS, WITH_TENSORFLOW, run, start
from tests.faults.run_comparison import assert_equal_runs

WORKDIR = "--workdir=gs://bucket/run"


@pytest.fixture
def storage(tmp_path):
    with FakeStorage(str(tmp_path / "authority.pem")).serving() as storage:
        storage.environment |= WITH_TENSORFLOW
        yield storage


def saved_steps(storage):
    """Return the steps of complete checkpoints.

    Objects in a bucket cannot be renamed, so Orbax marks complete checkpoints with a file.
    """
    matches = (re.fullmatch(r"run/checkpoints/(\d+)/commit_success.txt", name) for name in storage.objects)
    return sorted(int(match[1]) for match in matches if match)


def run_until(storage, name, signum):
    """Run until the file `name` of the checkpoint of step 16 (of 32) has been written, then send a signal."""
    process = start(*SHORT_DIGITS, WORKDIR, **storage.environment)
    storage.on_write[f"run/checkpoints/16/{name}"] = lambda: process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def flip_one_bit(storage, step):
    """Flip one bit of the parameters in a checkpoint."""
    name = max(
        (name for name in storage.objects if name.startswith(f"run/checkpoints/{step}/params/")),
        key=lambda name: len(storage.objects[name].content),
    )
    content, generation = storage.objects[name]
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 1])
    storage.objects[name] = Object(content[:middle] + flipped + content[middle + 1 :], generation + 1_000_000)


def download(storage, directory):
    """Write the objects as files, and return the run directory among them."""
    for name, (content, _) in storage.objects.items():
        if not name.endswith("/"):
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return directory / "run"


@pytest.mark.slow
def test_run_in_a_bucket_that_is_killed_stopped_and_damaged_ends_with_the_same_parameters(
    tmp_path, storage, finished_run
):
    killed = run_until(storage, "_CHECKPOINT_METADATA", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert saved_steps(storage) == [8]

    stopped = run_until(storage, "commit_success.txt", signal.SIGTERM)
    assert stopped.returncode == 75, stopped.stderr
    assert "Resuming from step 8 of 32 in gs://bucket/run" in stopped.stdout
    assert "run/result.json" not in storage.objects

    *_, previous, newest = saved_steps(storage)
    flip_one_bit(storage, newest)
    resumed = run(*SHORT_DIGITS, WORKDIR, **storage.environment)
    assert resumed.returncode == 0, resumed.stderr
    assert f"Checkpoint {newest} is damaged" in resumed.stdout
    assert f"Resuming from step {previous} of" in resumed.stdout
    assert any(name.startswith(f"run/damaged/{newest}/") for name in storage.objects)

    evaluated = run("evaluate", WORKDIR, "--format=json", **storage.environment)
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads((finished_run / "result.json").read_text())
    assert json.loads(evaluated.stdout.splitlines()[-1])["top1"] == result["test"]["top1"]
    assert_equal_runs(download(storage, tmp_path), finished_run, with_events=True)
    assert storage.unsupported_requests == []
