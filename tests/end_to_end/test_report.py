"""The report as a user asks for it."""

import shutil

from tests.end_to_end.program import run


def test_a_page_is_left_in_the_workdir_or_where_it_was_asked_for(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "copied")
    alone = run("report", f"--workdir={workdir}")
    assert alone.returncode == 0, alone.stderr
    assert f"Wrote {workdir}/report.html" in alone.stdout
    assert "<h1>tiny on digits</h1>" in (workdir / "report.html").read_text()
    several = run("report", f"--workdir={workdir}", str(finished_run), f"--to={tmp_path}/both.html")
    assert several.returncode == 0, several.stderr
    assert "<h1>2 runs on digits</h1>" in (tmp_path / "both.html").read_text()


def test_where_it_cannot_be_written_is_said_before_all_the_work(tmp_path):
    finished = run("report", f"--workdir={tmp_path}/none", f"--to={tmp_path}/none/report.html")
    assert finished.returncode == 2
    assert finished.stderr == (
        f"error: cannot write the report to {tmp_path}/none/report.html (no such directory). "
        f"Create the directory {tmp_path}/none first.\n"
    )


def test_without_a_run_it_says_what_is_missing():
    finished = run("report")
    assert (finished.returncode, finished.stderr) == (2, "error: --workdir is missing\n")
