"""Commands on a finished run."""

import json

from resnet_jax.workdir.workdir import WorkDir
from tests.end_to_end.program import SHORT_DIGITS, run, start


def test_evaluate_prints_the_metrics_in_the_result_of_training(finished_run):
    result = WorkDir(str(finished_run)).result()
    evaluated = run("evaluate", f"--workdir={finished_run}", "--format=json")
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout.splitlines()[-1])
    assert {key: scores[key] for key in ("loss", "top1", "top5", "examples", "unreadable")} == result["test"]
    assert scores["checkpoint_step"] == result["checkpoint_step"]
    table = run("evaluate", f"--workdir={finished_run}")
    assert f"{result['test']['top1']:.2%}" in table.stdout


def test_closed_stdout_ends_evaluate_without_a_message(finished_run):
    """Stdout is closed early when the output is piped to `head`, for example. The exit code is that of SIGPIPE."""
    with start("evaluate", f"--workdir={finished_run}", "--format=json") as process:
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=120) == 141, errors
    assert errors == ""


def test_training_a_finished_run_prints_its_result_again(finished_run):
    again = run(*SHORT_DIGITS, f"--workdir={finished_run}")
    assert again.returncode == 0
    assert "This run is finished." in again.stdout
    assert f"{WorkDir(str(finished_run)).result()['test']['top1']:.2%}" in again.stdout
