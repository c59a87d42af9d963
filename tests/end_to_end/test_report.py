"""The command `report`."""

import shutil

import pytest

from tests.end_to_end.program import ASCII_LOCALE, run


@pytest.mark.slow
def test_report_is_written_to_the_workdir_or_to_the_requested_path(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "copied")
    of_one_run = run("report", f"--workdir={workdir}", **ASCII_LOCALE)
    assert of_one_run.returncode == 0, of_one_run.stderr
    assert f"Wrote {workdir}/report.html" in of_one_run.stdout
    assert "<h1>tiny on digits</h1>" in (workdir / "report.html").read_text(encoding="utf-8")
    of_two_runs = run("report", f"--workdir={workdir}", str(finished_run), f"--to={tmp_path}/both.html")
    assert of_two_runs.returncode == 0, of_two_runs.stderr
    assert "<h1>2 runs on digits</h1>" in (tmp_path / "both.html").read_text(encoding="utf-8")


def test_report_checks_the_output_directory_before_it_reads_the_run(tmp_path):
    finished = run("report", f"--workdir={tmp_path}/none", f"--to={tmp_path}/none/report.html")
    assert finished.returncode == 2
    assert finished.stderr == (
        f"error: cannot write the report to {tmp_path}/none/report.html (no such directory). "
        f"Create the directory {tmp_path}/none first.\n"
    )
