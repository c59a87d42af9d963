"""The flags --help and --version, and the program without arguments."""

import os
import subprocess
import sys

import pytest

import resnet_jax
from resnet_jax.cli import app
from resnet_jax.errors import program
from tests.end_to_end.program import ROOT, WITHOUT_JAX, run_without_jax

DIGITS = ("--config=configs/digits.py", "--workdir=/tmp/x")


def run_in_shell(argument, redirection):
    command = f'exec {sys.executable} -c "$PROGRAM" {argument} {redirection}'
    environment = {**os.environ, "PROGRAM": WITHOUT_JAX}
    return subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_help_needs_no_jax_and_lists_commands_in_order():
    finished = run_without_jax("--help")
    assert finished.returncode == 0, finished.stderr
    lines = [line.split()[0] for line in finished.stdout.splitlines() if line.strip()]
    commands = [line for line in lines if line in app.COMMANDS]
    assert commands == list(app.COMMANDS)
    assert lines.index("usage:") < lines.index("train") < lines.index("--config") < lines.index("--coordinator")


@pytest.mark.parametrize("command", [name for name in app.COMMANDS if name != "train"])
def test_help_of_a_command_needs_no_jax(command):
    finished = run_without_jax(command, "--help")
    assert finished.returncode == 0, finished.stderr
    assert f"flags of {command}:" in finished.stdout
    defined = [line for line in finished.stdout.splitlines() if line.startswith("  --")]
    assert defined and all("  " in line.strip() for line in defined)  # Two spaces separate each flag from its help.


def test_program_without_arguments_prints_the_help():
    finished = run_without_jax()
    assert (finished.returncode, finished.stdout) == (2, run_without_jax("--help").stdout)


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_ignore_a_closed_stdout(argument):
    """Stdout is closed early when the output is piped to `head`, for example."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", WITHOUT_JAX, argument]
    finished = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize(("redirection", "reason"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left")])
def test_output_that_cannot_be_written_is_an_error(redirection, reason):
    finished = run_in_shell("--version", redirection)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(f"error: cannot write the result to stdout ({reason}")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_error_without_stderr_keeps_its_exit_code_and_does_not_move_to_stdout(redirection):
    finished = run_in_shell("evaluat", redirection)
    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", "")


def test_version_needs_no_jax():
    finished = run_without_jax("--version")
    assert (finished.returncode, finished.stdout) == (0, f"resnet-jax {resnet_jax.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config=configs/digits.py", "--workdir="], "--workdir"),
        (["evaluate", "--workdir", ""], "--workdir"),
        (["evaluate", "--workdir= "], "--workdir"),
        (["report", "--workdir=/nowhere", "--to="], "--to"),
        (["predict", "--workdir=/nowhere", "--similar_to=", "cat.jpg"], "--similar_to"),
        (
            ["--config=configs/digits.py", "--config.dataset.test_split=", "--config.init_from=", "--workdir=/nowhere"],
            "--config.init_from",  # An empty test_split has a meaning.
        ),
        (["evaluate", "--workdir=/nowhere", ""], "one of the arguments"),
    ],
)
def test_empty_value_is_refused(arguments, named):
    """An unset shell variable leaves an empty value."""
    finished = run_without_jax(*arguments)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {named} is empty. If ")


@pytest.mark.parametrize(
    ("invoked", "expected"),
    [("main.py", "python main.py"), ("/usr/bin/resnet-jax", "resnet-jax"), ("-c", "python main.py")],
)
def test_program_is_named_as_invoked(monkeypatch, invoked, expected):
    monkeypatch.setattr(sys, "argv", [invoked])
    assert program() == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config=configs/digit.py", "--workdir=/tmp/x"], "there is no config file 'configs/digit.py'"),
        (["--workdir=/tmp/x"], "--config is missing"),
        (["--config=configs/digits.py"], "--workdir is missing"),
        (["--config=", "--workdir=/tmp/x"], "there is no config file ''"),
        (["--config=configs/digits.py:fast", "--workdir=/tmp/x"], "the recipe configs/digits.py takes no argument"),
        (["--config=configs/mnist.py:adem", "--workdir=/tmp/x"], "unknown variant 'adem'. Did you mean adam"),
        (["--config=configs/imagenet.py:a3", "--workdir=/tmp/x"], "unknown variant 'a3'"),
        (["evalute"], "unknown command 'evalute'. Did you mean evaluate"),
        (["report"], "--workdir is missing"),
        ([*DIGITS, "--config.bath_size=32"], "unknown setting 'bath_size'. Did you mean batch_size"),
        ([*DIGITS, "--config.optimizer.lerning_rate=1"], "unknown setting 'optimizer.lerning_rate'. Did you mean"),
        ([*DIGITS, "--config.seed=one"], "--config.seed must be of type int, but 'one' was given"),
        ([*DIGITS, "evaluate"], "unexpected argument 'evaluate'"),
    ],
)
def test_mistake_in_the_command_line_is_reported_without_jax(arguments, sentence):
    finished = run_without_jax(*arguments)
    assert finished.returncode == 2, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ") and sentence in line


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["--batch_size=32"], "Did you mean --config.batch_size?"),
        (["--batch-size=32"], "Did you mean --config.batch_size?"),
        (["--learning_rate=1"], "Did you mean --config.optimizer.learning_rate?"),
        (["--momentum=1"], "Did you mean --config.batch_norm.momentum or --config.optimizer.momentum?"),
        (["--dataset.name=cifar10"], "Did you mean --config.dataset.name?"),
        (["--model=resnet18"], "Did you mean --config.model.name?"),
        (["--epochs=1"], "Did you mean --config.num_epochs?"),
        (["--workdri=/tmp"], "Did you mean --workdir?"),
        (["--lr=1"], "--help lists the flags."),
    ],
)
def test_unknown_flag_suggests_the_flag_or_setting(arguments, suggestion):
    finished = run_without_jax("--config=configs/digits.py", *arguments)
    name = arguments[0].partition("=")[0]
    assert (finished.returncode, finished.stderr) == (2, f"error: unknown flag {name}. {suggestion}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--config.seed=1", "--config=configs/digits.py"],
            "--config.seed changes a setting of the recipe. Give --config=RECIPE before it.",
        ),
        (
            ["evaluate", "--workdir=/tmp/x", "--config.seed=1"],
            "--config.seed changes a setting of the recipe. Give --config=RECIPE before it.",
        ),
        (["report", "--workdir=/tmp/x", "--config.seed=1"], "unknown flag --config.seed. --help lists the flags."),
        (
            ["configs/digits.py", "--workdir=/tmp/x"],
            "unknown command 'configs/digits.py'. Did you mean --config=configs/digits.py?",
        ),
    ],
)
def test_misplaced_recipe_or_setting_is_reported(arguments, sentence):
    finished = run_without_jax(*arguments)
    assert (finished.returncode, finished.stderr) == (2, f"error: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "--workdir=/tmp/x", "--eval_crop=-5"], "--eval_crop=-5: -5 is not a positive integer"),
        (["evaluate", "--workdir=/tmp/x", "--eval_resize=0"], "--eval_resize=0: 0 is not a positive integer"),
        (
            ["benchmark", "--config=configs/digits.py", "--collectives", "--hop_us=nan"],
            "--hop_us=nan: must be a finite number",
        ),
    ],
)
def test_number_out_of_range_is_refused(arguments, sentence):
    finished = run_without_jax(*arguments)
    assert (finished.returncode, sentence in finished.stderr) == (2, True), finished.stderr
