"""Disks that are full, or cannot be written to."""

import contextlib
import os
import re
import shutil
import subprocess

import pytest

from tests.end_to_end.program import run, start
from tests.faults.comparison import LONG_DIGITS, assert_equal_runs, saved_steps, wait_for


@pytest.fixture
def disk(tmp_path):
    """A disk of 40 MB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a disk takes the rights of root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk):
    """Leaves no room, beside a process that is writing."""
    with (disk / "filler").open("wb") as filler:
        while free := shutil.disk_usage(disk).free:
            with contextlib.suppress(OSError):  # The other has been faster.
                os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, free)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_with_room_the_run_goes_on(disk, uninterrupted):
    workdir = disk / "run"
    process = start(*LONG_DIGITS, f"--workdir={workdir}")
    wait_for(lambda: saved_steps(workdir), process)
    fill(disk)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    last_line = stderr.splitlines()[-1]  # A save that was under way may have broken off, with words of its own.
    assert re.search("cannot save a checkpoint in .*: make room|No space left on device", last_line), stderr
    assert "run the same command again" in last_line
    (disk / "filler").unlink()
    resumed = run(*LONG_DIGITS, f"--workdir={workdir}")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step " in resumed.stdout
    assert_equal_runs(workdir, uninterrupted)


@pytest.mark.slow
def test_a_disk_that_is_read_only_is_one_sentence(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    finished = run(*LONG_DIGITS, f"--workdir={disk / 'run'}")
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert "Read-only file system" in finished.stderr
