"""Every mistake is reported in one line on stderr, with exit code 2 and without a traceback."""

import json
import shutil

import pytest

from tests.end_to_end.program import SHORT_DIGITS, run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config.model.name=resnet19"], "unknown model 'resnet19'. Did you mean resnet18"),
        (["--config.dataset.test_split=tset"], "unknown split 'tset'. Did you mean test"),
        (
            ["--process_id=1", "--num_processes=2"],
            "--num_processes and --process_id go together, but --coordinator is missing",
        ),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "--process_id (2) must be at least 0 and less than --num_processes (2)",
        ),
    ],
)
@pytest.mark.slow
def test_wrong_setting_is_reported(tmp_path, arguments, sentence):
    check(run(*SHORT_DIGITS, f"--workdir={tmp_path}/run", *arguments), sentence)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("command", ["find_lr --to=page.html", "benchmark", "probe --workdir={run}"])
@pytest.mark.slow
def test_wrong_setting_is_reported_before_the_dataset_is_opened(tiny_run, tmp_path, command):
    recipe = ("--config=configs/cifar10.py", f"--config.dataset.data_dir={tmp_path}", "--config.ema_decay=2.0")
    check(run(*command.format(run=tiny_run).split(), *recipe), "ema_decay")


def test_batch_size_not_divisible_by_the_devices_is_reported(tmp_path):
    finished = run(
        *SHORT_DIGITS,
        f"--workdir={tmp_path}",
        "--config.batch_size=60",
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    check(finished, "batch_size=60 is not divisible by the number of devices (8). Try --config.batch_size=64.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "--workdir=/nowhere"], "/nowhere is not a run directory (no config.json)"),
        (["predict", "--workdir=/nowhere"], "predict needs images. Name files, folders, or -"),
        (["predict", "cat.jpg"], "predict takes either --workdir, or --config with --config.init_from"),
        (
            ["predict", "--workdir=/nowhere", "x.jpg", "--features=x.txt"],
            "cannot write features to x.txt (wrong suffix). Give a path",
        ),
    ],
)
def test_wrong_command_is_reported(arguments, sentence):
    check(run(*arguments), sentence)


@pytest.mark.parametrize(
    "platform", ["cuda", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpu", "nonsense"))]
)
def test_platform_without_devices_is_reported(tmp_path, platform):
    finished = run(*SHORT_DIGITS, f"--workdir={tmp_path}/run", JAX_PLATFORMS=platform)
    check(finished, f"JAX finds no device to use (JAX_PLATFORMS={platform}: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "--config=configs/digits.py"],
        ["benchmark", "--config=configs/digits.py"],
        ["benchmark", "--config=configs/digits.py", "--collectives"],
        ["models", "--filter=resnet18"],
        ["verify_resume", *SHORT_DIGITS],
        ["evaluate", "--workdir=RUN"],
        ["predict", "--workdir=RUN", "image.png"],
        ["report", "--workdir=RUN"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_platform_without_devices_is_reported_by_every_command_but_export(finished_run, arguments):
    arguments = [argument.replace("RUN", str(finished_run)) for argument in arguments]
    check(run(*arguments, JAX_PLATFORMS="cuda"), "JAX finds no device to use (JAX_PLATFORMS=cuda: ")


def test_unwritable_workdir_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    check(run(*SHORT_DIGITS, f"--workdir={tmp_path}/file/run"), "cannot write to the workdir")


def test_workdir_of_another_run_is_reported(finished_run):
    finished = run(*SHORT_DIGITS, f"--workdir={finished_run}", "--config.seed=7")
    check(finished, "this workdir belongs to a run with different settings: seed (stored 0, now 7)")


def test_missing_test_split_is_reported(tmp_path, finished_run):
    """The stored config is what a run with --config.dataset.test_split=none writes."""
    shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((finished_run / "config.json").read_text())
    config["dataset"]["test_split"] = "none"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    check(
        run("evaluate", f"--workdir={tmp_path}/run"),
        "there is no test split. Choose a split with --split (train, test).",
    )


def check(finished, sentence):
    assert finished.returncode == 2, finished.stderr
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert sentence in lines[0]
