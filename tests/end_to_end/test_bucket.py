"""A run whose workdir is a bucket of Google Cloud Storage, as on a TPU pod; a server of our own stands in for it."""

import json
import re
import signal

import pytest

from tests.end_to_end.fake_storage import FakeStorage, Object
from tests.end_to_end.program import SHORT_DIGITS, run, start
from tests.faults.comparison import assert_equal_runs, wait_for

WORKDIR = "--workdir=gs://bucket/run"


@pytest.fixture
def storage(tmp_path):
    with FakeStorage(str(tmp_path / "authority.pem")).serving() as storage:
        yield storage


def steps(storage, ending):
    """Of the checkpoints that have such a file."""
    found = (re.fullmatch(rf"run/checkpoints/(\d+)/{ending}", name) for name in list(storage.objects))
    return sorted(int(match[1]) for match in found if match)


def saved_steps(storage):
    """There is no renaming in a bucket: Orbax marks what is complete."""
    return steps(storage, "commit_success.txt")


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
    process = start(*SHORT_DIGITS, WORKDIR, **storage.environment)
    wait_for(lambda: 16 in steps(storage, "_CHECKPOINT_METADATA"), process)  # Of 32 steps; the save has begun.
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert saved_steps(storage) == [8]

    process = start(*SHORT_DIGITS, WORKDIR, **storage.environment)
    wait_for(lambda: 16 in saved_steps(storage), process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert "Resuming from step " in stdout
    assert "gs://bucket/run" in stdout
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
