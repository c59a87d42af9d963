"""A run whose loss becomes NaN, and the command `debug_nan`, which explains the step that the run saved."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.program import SHORT_DIGITS, run

# Eight steps per epoch. From the second epoch on, the learning rate is far too high.
DIVERGING = (
    *SHORT_DIGITS,
    "--config.schedule.name=step",
    "--config.schedule.step_epochs=(1,)",
    "--config.schedule.step_factor=1e20",
)


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_debug_nan_explains_the_step_that_a_diverged_run_saved(tmp_path, feed):
    diverged = run(*DIVERGING, f"--config.dataset.feed={feed}", f"--workdir={tmp_path}")
    assert diverged.returncode == 2
    assert "Traceback" not in diverged.stderr
    assert f"python main.py debug_nan --workdir={tmp_path}" in diverged.stderr
    record = json.loads((tmp_path / "nan" / "nan.json").read_text())
    explained = run("debug_nan", f"--workdir={tmp_path}")
    assert explained.returncode == 0, explained.stderr
    (marked,) = [line for line in explained.stdout.splitlines() if line.endswith("<- the first")]
    assert marked.split()[0] == record["first_not_finite"]
    assert "Note: in the run" not in explained.stdout
    assert "optimizer.learning_rate" in explained.stdout
    pixels = np.asarray(Image.open(tmp_path / "nan" / "batch.png"))
    assert pixels.shape[1] > 8 * 96  # Eight images per row.
    as_json = run("debug_nan", f"--workdir={tmp_path}", "--format=json")
    (line,) = as_json.stdout.splitlines()
    explanation = json.loads(line)
    assert (explanation["step"], explanation["first_not_finite"]) == (record["step"], record["first_not_finite"])
    assert explanation["in_the_run"] == record["first_not_finite"]
    assert len({value["name"] for value in explanation["parts"] if value["kind"] == "layer"}) > 10
    assert explanation["pictures"] == str(tmp_path / "nan" / "batch.png")


def test_debug_nan_reports_a_run_without_a_saved_step(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "classes.json").write_text("[]")
    finished = run("debug_nan", f"--workdir={tmp_path}")
    assert finished.returncode == 2
    assert f"error: {tmp_path} contains no saved non-finite step" in finished.stderr
