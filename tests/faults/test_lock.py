"""Two processes with the same workdir."""

import signal

import pytest

from tests.end_to_end.program import SHORT_DIGITS, run, start
from tests.faults.run_comparison import assert_equal_runs, wait_for


@pytest.mark.slow
def test_second_process_in_a_workdir_is_refused_and_the_first_completes(tmp_path, finished_run):
    workdir = tmp_path / "run"
    process = start(*SHORT_DIGITS, f"--workdir={workdir}")
    lock = workdir / ".lock"
    wait_for(lambda: lock.exists() and lock.stat().st_size, process)  # It names the process.
    process.send_signal(signal.SIGSTOP)
    second = run(*SHORT_DIGITS, f"--workdir={workdir}")
    process.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert f"{workdir} is in use by process {process.pid} on " in second.stderr
    assert len(second.stderr.splitlines()) == 1
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert_equal_runs(workdir, finished_run)
