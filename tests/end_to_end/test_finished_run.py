"""What can be had of a run that is finished."""

import json

import pytest

from resnet_jax.workdir import WorkDir
from tests.end_to_end.program import SHORT_DIGITS, run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    finished = run(*SHORT_DIGITS, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return workdir


def test_evaluate_prints_the_figures_of_the_training(workdir):
    result = WorkDir(str(workdir)).result()
    evaluated = run("evaluate", f"--workdir={workdir}", "--format=json")
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout.splitlines()[-1])
    assert {key: scores[key] for key in ("loss", "top1", "top5", "examples", "unreadable")} == result["test"]
    assert scores["checkpoint_step"] == result["checkpoint_step"]
    table = run("evaluate", f"--workdir={workdir}")
    assert f"{result['test']['top1']:.2%}" in table.stdout


def test_a_finished_run_prints_its_result_again(workdir):
    again = run(*SHORT_DIGITS, f"--workdir={workdir}")
    assert again.returncode == 0
    assert "This run is finished." in again.stdout
    assert f"{WorkDir(str(workdir)).result()['test']['top1']:.2%}" in again.stdout
