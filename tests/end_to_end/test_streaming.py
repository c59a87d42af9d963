"""Runs on a folder of images of many sizes, decoded by worker processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end import image_files
from tests.end_to_end.program import (
    ROOT,
    TINY_PROGRAM,
    WITHOUT_TENSORFLOW,
    run,
    start_processes,
    wait_for_processes,
)
from tests.faults.run_comparison import assert_equal_runs, wait_for

# main.py with the model "tiny". It also records, in a file per process, the positions of the examples of each step.
RECORDING_PROGRAM = """
import contextlib, json, os, runpy
from resnet_jax.models import variants
from tests.end_to_end.tiny import TINY_VARIANT
from resnet_jax.data import workers
from resnet_jax.data.host_batches import TrainingBatchLoader

class RecordingIterator:
    def __init__(self, arrays, steps):
        self.pairs = zip(steps, arrays)
    def __iter__(self):
        return self
    def __next__(self):
        step, (images, rows) = next(self.pairs)
        with open(os.environ["RECORDS"] + str(os.getpid()), "a") as records:
            records.write(json.dumps([step, rows.positions.tolist()]) + chr(10))
        return images, rows

arrays = workers.arrays
variants.VARIANTS["tiny"] = TINY_VARIANT

@contextlib.contextmanager
def recording_arrays(fill, numbers, shape, num_workers):
    with arrays(fill, numbers, shape, num_workers) as batches:
        yield RecordingIterator(batches, numbers) if isinstance(fill, TrainingBatchLoader) else batches

if __name__ == "__main__":
    workers.arrays = recording_arrays
    runpy.run_path("main.py", run_name="__main__")
"""
# The learning rate is constant after the warm-up, so runs of any number of epochs share one compiled program.
SHORT = (
    "--config=configs/folder.py:tiny",
    "--config.dataset.image_size=32",
    "--config.batch_size=8",
    "--config.num_epochs=4",
    "--config.schedule.name=constant",
    "--config.schedule.warmup_epochs=1",
    "--config.log_every_steps=1",
)
STEPS = 4 * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_files.make_image_folder(tmp_path_factory.mktemp("images") / "shapes", train=16, val=5)


@pytest.fixture
def start_recording(folder, tmp_path):
    """Return a function that starts a recorded run on the folder and returns its process."""
    program = tmp_path / "recording.py"
    program.write_text(RECORDING_PROGRAM)

    def start(workdir, *arguments, **environment):
        records = {"RECORDS": f"{workdir}.records."}
        environment = {**os.environ, "XLA_FLAGS": "", **WITHOUT_TENSORFLOW, **records, **environment}
        command = [sys.executable, str(program), *SHORT, f"--config.dataset.name=folder:{folder}"]
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid) -> bool:
    """Return whether a process has not ended. An ended process that nobody waited for is in state Z."""
    state = subprocess.run(["ps", "-o", "state=", "-p", pid], capture_output=True, text=True).stdout.strip()
    return state not in ("", "Z")


def recorded_examples(workdir) -> dict[int, list[list[int]]]:
    """Return the examples of each step: one list for each time that a process took the step."""
    examples = {}
    for path in sorted(workdir.parent.glob(f"{workdir.name}.records.*")):
        for line in path.read_text().splitlines():
            step, positions = json.loads(line)
            examples.setdefault(step, []).append(positions)
    return examples


@pytest.mark.slow
def test_killed_run_resumes_with_other_workers_to_the_same_examples_and_parameters(tmp_path, start_recording):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    process = start_recording(uninterrupted, "--config.dataset.num_workers=2")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "Feed: streaming, because images differ in size." in stdout
    assert "leaked" not in stderr
    process = start_recording(killed, "--config.dataset.num_workers=3")
    wait_for(lambda: (killed / "checkpoints" / "6").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start_recording(killed, "--config.dataset.num_workers=1")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "Resuming from step" in stdout
    expected, actual = recorded_examples(uninterrupted), recorded_examples(killed)
    assert sorted(expected) == list(range(STEPS))
    assert {step: lists[0] for step, lists in actual.items()} == {step: lists[0] for step, lists in expected.items()}
    # The steps that the resumed process repeated have the same examples.
    assert all(lists.count(lists[0]) == len(lists) for lists in actual.values())
    assert any(len(lists) == 2 for lists in actual.values())
    assert_equal_runs(killed, uninterrupted)


@pytest.mark.slow
def test_signal_of_a_terminal_saves_and_leaves_no_process_behind(tmp_path, start_recording):
    """A terminal sends Ctrl-C to all processes."""
    arguments = ("--config.dataset.num_workers=2", "--config.num_epochs=500")
    process = start_recording(tmp_path / "stopped", *arguments)
    wait_for(lambda: (tmp_path / "stopped" / "metrics.jsonl").exists(), process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    for pid in (process.pid, *map(int, children.split())):
        os.kill(pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (130, "")
    assert "Checkpoint of step" in stdout
    wait_until(lambda: not any(alive(pid) for pid in children.split()))


@pytest.mark.slow
def test_unreadable_files_are_logged_and_the_run_completes(tmp_path):
    root = image_files.make_image_folder(tmp_path / "shapes", train=8, val=3)
    bad = image_files.unreadable_image_files()
    for name, content in {**bad, **image_files.unusual_image_files()}.items():
        (root / "train" / "dot" / name).write_bytes(content)
    (root / "val" / "dot" / "empty.jpg").write_bytes(b"")
    (root / "train" / "dot" / "notes.txt").write_text("Files of other types are ignored.")
    arguments = (*SHORT, "--config.num_epochs=2", f"--config.dataset.name=folder:{root}", f"--workdir={tmp_path}/run")
    finished = run(*arguments, "--config.dataset.max_unreadable=10")
    assert finished.returncode == 0, finished.stderr
    for name in bad:
        assert finished.stdout.count(f"Unreadable: {root}/train/dot/{name}: ") == 1
    assert finished.stdout.count(f"Unreadable: {root}/val/dot/empty.jpg: the file is empty") == 1
    assert finished.stdout.count("Unreadable: ") == len(bad) + 1
    evaluated = run("evaluate", f"--workdir={tmp_path}/run", "--split=val", "--format=json")
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout)
    assert (scores["examples"], scores["unreadable"]) == (9, 1)
    assert "empty.jpg" in evaluated.stderr
    arguments = (*arguments[:-1], f"--workdir={tmp_path}/strict")
    stopped = run(*arguments, "--config.dataset.max_unreadable=2")
    assert stopped.returncode == 2
    assert "dataset.max_unreadable allows 2" in stopped.stderr
    assert "Traceback" not in stopped.stderr


@pytest.mark.slow
def test_dead_worker_ends_the_run_with_one_sentence(tmp_path, start_recording):
    arguments = ("--config.dataset.num_workers=2", "--config.num_epochs=500")
    process = start_recording(tmp_path / "run", *arguments)
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), process)
    children = subprocess.run(["pgrep", "-f", "-P", str(process.pid), "spawn_main"], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "(exit code -9) died" in stderr
    assert "Traceback" not in stderr


UNGUARDED_SCRIPT = """
import resnet_jax
from resnet_jax.config import default
from resnet_jax.models import variants
from tests.end_to_end.tiny import TINY_VARIANT

variants.VARIANTS["tiny"] = TINY_VARIANT
config = default()
config.model.name = "tiny"
config.dataset.feed = "streaming"
config.dataset.num_workers = 1
resnet_jax.train(config, "WORKDIR")
"""


@pytest.mark.slow
def test_script_without_main_guard_fails_with_advice(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED_SCRIPT.replace("WORKDIR", str(tmp_path / "run")))
    environment = {**os.environ, "XLA_FLAGS": "", **WITHOUT_TENSORFLOW}
    command = [sys.executable, str(tmp_path / "script.py")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode != 0
    assert 'must call train inside an `if __name__ == "__main__":` block' in finished.stderr.splitlines()[-1]


@pytest.mark.slow
def test_evaluate_finds_a_moved_folder_by_data_dir(tmp_path, folder):
    """The run names the folder by a relative path, and is evaluated from another directory."""
    shutil.copytree(folder, tmp_path / "original" / "shapes")
    recipe = f"--config={ROOT}/configs/folder.py:tiny"
    arguments = [recipe, *SHORT[1:], "--config.num_epochs=2", "--config.dataset.name=folder:original/shapes"]
    command = [sys.executable, TINY_PROGRAM, *arguments, f"--workdir={tmp_path}/run"]
    environment = {**os.environ, "XLA_FLAGS": "", **WITHOUT_TENSORFLOW}
    trained = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert trained.returncode == 0, trained.stderr
    assert run("evaluate", f"--workdir={tmp_path}/run", "--split=val").returncode == 0
    shutil.move(tmp_path / "original", tmp_path / "moved")
    assert run("evaluate", f"--workdir={tmp_path}/run", "--split=val").returncode == 2
    data_dir = f"--data_dir={tmp_path}/moved/shapes"
    larger_crop = ("--eval_resize=48", "--eval_crop=40")
    evaluated = run("evaluate", f"--workdir={tmp_path}/run", "--split=val", data_dir, *larger_crop, "--format=json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["examples"] == 15


@pytest.mark.slow
def test_two_processes_share_each_batch_without_overlap_or_omission(tmp_path, folder, start_recording):
    by_one, by_two = tmp_path / "by_one", tmp_path / "by_two"
    arguments = ("--config.dataset.num_workers=1", "--config.num_epochs=1")
    process = start_recording(by_one, *arguments)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    processes = start_processes(
        2,
        *SHORT,
        f"--config.dataset.name=folder:{folder}",
        *arguments,
        f"--workdir={by_two}",
        program=str(tmp_path / "recording.py"),
        RECORDS=f"{by_two}.records.",
    )
    codes, _, stderr = wait_for_processes(processes)
    assert codes == [0, 0], stderr
    whole, halves = recorded_examples(by_one), recorded_examples(by_two)
    assert sorted(halves) == sorted(whole) == list(range(STEPS // 4))
    for step, (batch,) in whole.items():
        first, second = halves[step]
        assert len(first) == len(second) == 4
        assert batch in (first + second, second + first)
