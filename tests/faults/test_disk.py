"""Full and read-only disks."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest

from tests.end_to_end.program import ROOT, run, start
from tests.faults.run_comparison import LONG_DIGITS, assert_equal_runs, saved_steps, wait_for


@pytest.fixture
def disk(tmp_path):
    """A disk of 40 MB in memory."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", mount_point]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk requires root")
    yield mount_point
    subprocess.run(["umount", "--lazy", mount_point], check=True)


def fill(disk):
    """Fill all free space, while another process is writing."""
    with (disk / "filler").open("wb") as filler:
        while free := shutil.disk_usage(disk).free:
            with contextlib.suppress(OSError):  # The other process has taken some of the space.
                os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, free)


BROKEN_SAVE = """
import resource, sys
import numpy as np
from etils import epath
from resnet_jax.runtime import library_messages

library_messages.silence()
from resnet_jax.workdir.checkpoints import Checkpoints

checkpoints = Checkpoints(epath.Path(sys.argv[1]), keep=3, best_metric="top1")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
checkpoints.save(1, {"params": list(np.random.default_rng(0).random([50, 30_000]))}, metadata={}, metrics=None)
checkpoints.wait()
"""


def test_failed_save_of_many_arrays_reports_one_error(tmp_path):
    command = [sys.executable, "-c", BROKEN_SAVE, tmp_path]
    stderr = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120).stderr
    assert "UserError: cannot save a checkpoint in" in stderr.splitlines()[-1]
    assert "Event loop is closed" not in stderr  # TensorStore would print this for each of the other arrays.


@pytest.mark.parametrize(("message", "is_shown"), [("Event loop is closed", False), ("something else", True)])
def test_silence_hides_only_the_exceptions_of_a_closed_event_loop(message, is_shown):
    unraisable = f"""
from resnet_jax.runtime import library_messages

class RaisesOnDeletion:
    def __del__(self):
        raise RuntimeError("{message}")

library_messages.silence()
RaisesOnDeletion()
"""
    stderr = subprocess.run([sys.executable, "-c", unraisable], capture_output=True, text=True, cwd=ROOT).stderr
    assert (message in stderr) == is_shown
    assert bool(stderr) == is_shown


@pytest.mark.slow
def test_full_disk_ends_the_run_with_one_sentence_and_the_run_resumes_with_free_space(disk, uninterrupted):
    workdir = disk / "run"
    process = start(*LONG_DIGITS, f"--workdir={workdir}")
    wait_for(lambda: saved_steps(workdir), process)
    fill(disk)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    last_line = stderr.splitlines()[-1]  # Earlier lines may be TensorFlow's warnings about its event file.
    assert re.search("cannot save a checkpoint in .*[Ff]ree some space|No space left on device", last_line), stderr
    assert "run the same command again" in last_line
    (disk / "filler").unlink()
    resumed = run(*LONG_DIGITS, f"--workdir={workdir}")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step " in resumed.stdout
    assert_equal_runs(workdir, uninterrupted)


@pytest.mark.slow
def test_failed_save_ends_the_run_with_one_sentence_and_the_run_resumes(tmp_path, uninterrupted):
    # Without TensorBoard, whose event files would be too large as well.
    process = start(*LONG_DIGITS, f"--workdir={tmp_path}")
    wait_for(lambda: len(saved_steps(tmp_path)) > 1, process)
    # Space is free, but the files of a checkpoint's arrays (14 to 20 kB) exceed this limit.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    (line,) = stderr.splitlines()
    assert "cannot save a checkpoint in" in line
    assert "File too large" in line
    resumed = run(*LONG_DIGITS, f"--workdir={tmp_path}")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step " in resumed.stdout
    assert_equal_runs(tmp_path, uninterrupted)


@pytest.mark.slow
def test_read_only_disk_ends_the_run_with_one_sentence(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    finished = run(*LONG_DIGITS, f"--workdir={disk / 'run'}")
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert "Read-only file system" in finished.stderr
