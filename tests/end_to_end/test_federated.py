"""The command `federate`."""

import json
import signal

import pytest
from PIL import Image

from tests.end_to_end.program import SHORT_DIGITS, run, start
from tests.faults.run_comparison import assert_equal_runs, wait_for

FEDERATED = (
    *(argument for argument in SHORT_DIGITS if "ema_decay" not in argument),
    "--config.model.norm=group_norm",
    "--config.federated.partition=dirichlet",
    "--config.federated.clients=4",
    "--config.federated.local_epochs=2",
    "--config.log_every_steps=1",
)


@pytest.mark.slow
def test_run_killed_and_stopped_resumes_exactly_and_is_reported(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finished = run("federate", *FEDERATED, f"--workdir={whole}")
    assert finished.returncode == 0, finished.stderr
    assert "round 4/4  validation loss" in finished.stdout
    assert "worst decile of clients" in finished.stdout
    process = start("federate", *FEDERATED, f"--workdir={stopped}")
    wait_for(lambda: (stopped / "checkpoints" / "1").exists(), process)
    process.kill()
    process.communicate()
    process = start("federate", *FEDERATED, f"--workdir={stopped}")
    wait_for(lambda: (stopped / "checkpoints" / "2").exists(), process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert "Run the same command again to resume" in stdout
    assert not (stopped / "result.json").exists()
    resumed = run("federate", *FEDERATED, f"--workdir={stopped}")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step" in resumed.stdout
    assert_equal_runs(stopped, whole)
    reported = run("report", f"--workdir={whole}", f"--to={tmp_path}/report.html")
    assert reported.returncode == 0, reported.stderr
    page = (tmp_path / "report.html").read_text()
    assert "Worst clients" in page and "Drift" in page
    assert "4, dirichlet with alpha = 1, server average" in page and "4 rounds, batch size" in page


@pytest.mark.slow
def test_clients_train_on_images_in_their_directories(tmp_path):
    """The second client lacks a class, and the third has no images."""
    classes = {"dark": 30, "light": 220}
    for client, names in {"north": classes, "south": ["dark"], "west": [], "test": classes}.items():
        (tmp_path / "clinics" / client).mkdir(parents=True)
        for name in names:
            (tmp_path / "clinics" / client / name).mkdir()
            for number in range(12):
                size = (10 + number % 3, 12)
                image = Image.new("RGB", size, (classes[name], number, number))
                image.save(tmp_path / "clinics" / client / name / f"{number}.png")
    finished = run(
        "federate",
        "--config=configs/folder.py:tiny",
        f"--config.dataset.name=clients:{tmp_path}/clinics",
        "--config.dataset.validation_split=none",
        "--config.dataset.image_size=16",
        "--config.model.norm=group_norm",
        "--config.batch_size=8",
        "--config.num_epochs=2",
        "--config.federated.partition=directories",
        f"--workdir={tmp_path}/run",
    )
    assert finished.returncode == 0, finished.stderr
    assert "The client west has no images in class directories, so it takes no part." in finished.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["federated"]["clients"] == 2
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"]["examples"] == 24


def test_recipe_that_is_not_federated_is_refused(tmp_path):
    finished = run("federate", *SHORT_DIGITS, f"--workdir={tmp_path}/run")
    assert finished.returncode == 2
    assert "this recipe is not federated. Set --config.federated.partition" in finished.stderr
    assert not (tmp_path / "run").exists()
