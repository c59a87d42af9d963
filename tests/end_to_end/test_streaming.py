"""Runs on a folder of photographs: pictures of many sizes, decoded by worker processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end import image_files
from tests.end_to_end import test_processes as processes
from tests.end_to_end.program import ROOT, TINY_PROGRAM, WITHOUT_TENSORFLOW, run
from tests.faults.run_comparison import assert_equal_runs, wait_for

# The real program with a network that compiles in a second, which also notes which examples each step is given.
NOTING = """
import functools, json, os, runpy, sys
from resnet_jax.models import variants
from tests.end_to_end.tiny import TINY_VARIANT
from resnet_jax.data import workers
from resnet_jax.data.host_batches import TrainingBatches

class Noting:
    def __init__(self, arrays, numbers):
        self.pairs = zip(numbers, arrays)
    def __iter__(self):
        return self
    def __next__(self):
        step, (images, rows) = next(self.pairs)
        with open(os.environ["NOTES"] + str(os.getpid()), "a") as notes:
            notes.write(json.dumps([step, rows.positions.tolist()]) + chr(10))
        return images, rows

import contextlib
arrays = workers.arrays
variants.VARIANTS["tiny"] = TINY_VARIANT

@contextlib.contextmanager
def noting_arrays(fill, numbers, shape, num_workers):
    with arrays(fill, numbers, shape, num_workers) as given:
        yield Noting(given, numbers) if isinstance(fill, TrainingBatches) else given

if __name__ == "__main__":
    workers.arrays = noting_arrays
    runpy.run_path("main.py", run_name="__main__")
"""
# After its warm-up the rate is constant, so that runs of any number of epochs are compiled once.
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
    return image_files.make_image_folder(tmp_path_factory.mktemp("pictures") / "shapes", train=16, val=5)


@pytest.fixture
def start_noting(folder, tmp_path):
    """Starts a run on that folder; gives the process."""
    program = tmp_path / "noting.py"
    program.write_text(NOTING)

    def start(workdir, *arguments):
        environment = {**os.environ, "XLA_FLAGS": "", "NOTES": str(workdir) + ".notes.", "PYTHONPATH": str(ROOT)}
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
    """Whether there is such a process that has not ended; one that nobody waited for leaves an entry."""
    state = subprocess.run(["ps", "-o", "state=", "-p", pid], capture_output=True, text=True).stdout.strip()
    return state not in ("", "Z")


def noted(workdir) -> dict[int, list[list[int]]]:
    """The examples of each step, one list for each time that a process took it."""
    found = {}
    for path in sorted(workdir.parent.glob(f"{workdir.name}.notes.*")):
        for line in path.read_text().splitlines():
            step, positions = json.loads(line)
            found.setdefault(step, []).append(positions)
    return found


@pytest.mark.slow
def test_a_killed_run_goes_on_with_other_workers_to_the_same_examples_and_parameters(tmp_path, start_noting):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    process = start_noting(uninterrupted, "--config.dataset.num_workers=2")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "Feed: streaming, since pictures differ in size." in stdout
    assert "leaked" not in stderr
    process = start_noting(killed, "--config.dataset.num_workers=3")
    wait_for(lambda: (killed / "checkpoints" / "6").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start_noting(killed, "--config.dataset.num_workers=1")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "Resuming from step" in stdout
    expected, seen = noted(uninterrupted), noted(killed)
    assert sorted(expected) == list(range(STEPS))
    assert {step: times[0] for step, times in seen.items()} == {step: times[0] for step, times in expected.items()}
    assert all(times.count(times[0]) == len(times) for times in seen.values())  # Steps taken twice: the same examples.
    assert any(len(times) == 2 for times in seen.values())
    assert_equal_runs(killed, uninterrupted)


@pytest.mark.slow
def test_ctrl_c_saves_and_leaves_no_process_behind(tmp_path, start_noting):
    process = start_noting(tmp_path / "stopped", "--config.dataset.num_workers=2")
    wait_for(lambda: (tmp_path / "stopped" / "metrics.jsonl").exists(), process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    for pid in (process.pid, *map(int, children.split())):  # As a terminal does it: to all of them.
        os.kill(pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Checkpoint of step" in stdout
    wait_until(lambda: not any(alive(pid) for pid in children.split()))


def test_bad_files_are_named_and_the_run_goes_through(tmp_path):
    root = image_files.make_image_folder(tmp_path / "shapes", train=8, val=3)
    bad = image_files.unreadable_image_files()
    for name, content in {**bad, **image_files.unusual_image_files()}.items():
        (root / "train" / "dot" / name).write_bytes(content)
    (root / "val" / "dot" / "empty.jpg").write_bytes(b"")
    (root / "train" / "dot" / "notes.txt").write_text("Not looked at.")
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
def test_a_worker_that_dies_ends_the_run_in_a_sentence(tmp_path, start_noting):
    process = start_noting(tmp_path / "run", "--config.dataset.num_workers=2", "--config.num_epochs=500")
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), process)
    children = subprocess.run(["pgrep", "-f", "-P", str(process.pid), "spawn_main"], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "(exit code -9) died" in stderr
    assert "Traceback" not in stderr


UNGUARDED = """
import resnet_jax
from resnet_jax.config import default

config = default()
config.model.name = "resnet20"
config.dataset.feed = "streaming"
config.dataset.num_workers = 1
resnet_jax.train(config, "WORKDIR")
"""


@pytest.mark.slow
def test_a_script_that_trains_without_the_guard_that_workers_need_is_told_of_it(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED.replace("WORKDIR", str(tmp_path / "run")))
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode != 0
    assert 'must train under if __name__ == "__main__":' in finished.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_folder_may_be_moved(tmp_path, folder):
    """Named by a relative path in training, evaluated from elsewhere."""
    shutil.copytree(folder, tmp_path / "there" / "shapes")
    recipe = f"--config={ROOT}/configs/folder.py:tiny"
    arguments = [recipe, *SHORT[1:], "--config.num_epochs=2", "--config.dataset.name=folder:there/shapes"]
    command = [sys.executable, TINY_PROGRAM, *arguments, f"--workdir={tmp_path}/run"]
    environment = {**os.environ, "XLA_FLAGS": "", **WITHOUT_TENSORFLOW}
    trained = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert trained.returncode == 0, trained.stderr
    assert run("evaluate", f"--workdir={tmp_path}/run", "--split=val").returncode == 0
    shutil.move(tmp_path / "there", tmp_path / "elsewhere")
    assert run("evaluate", f"--workdir={tmp_path}/run", "--split=val").returncode == 2
    moved = f"--data_dir={tmp_path}/elsewhere/shapes"
    larger = ("--eval_resize=48", "--eval_crop=40", "--format=json")
    evaluated = run("evaluate", f"--workdir={tmp_path}/run", "--split=val", moved, *larger)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["examples"] == 15


@pytest.mark.slow
def test_two_processes_share_each_batch_without_overlap_or_omission(tmp_path, folder, start_noting):
    alone, together = tmp_path / "alone", tmp_path / "together"
    process = start_noting(alone, "--config.dataset.num_workers=1")
    assert process.wait(timeout=300) == 0, process.communicate()
    program = tmp_path / "noting.py"
    arguments = (*SHORT, f"--config.dataset.name=folder:{folder}", "--config.dataset.num_workers=1")
    two = processes.start(2, *arguments, f"--workdir={together}", program=str(program), NOTES=f"{together}.notes.")
    codes, _, complaints = processes.end(two)
    assert codes == [0, 0], complaints
    whole, halves = noted(alone), noted(together)
    assert sorted(halves) == sorted(whole) == list(range(STEPS))
    for step, (batch,) in whole.items():
        assert [len(half) for half in halves[step]] == [4, 4]
        one, other = halves[step]
        assert batch in (one + other, other + one)
