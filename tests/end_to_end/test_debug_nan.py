"""A run that breaks, and the verb that looks into what it leaves."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.program import SHORT_DIGITS, WITHOUT_TENSORFLOW, run

# Eight steps an epoch; the rate is hopeless from the second epoch on.
BREAKS = (
    *SHORT_DIGITS,
    "--config.schedule.name=step",
    "--config.schedule.step_epochs=(1,)",
    "--config.schedule.step_factor=1e20",
)


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_a_run_that_breaks_can_be_looked_into(tmp_path, feed):
    broke = run(*BREAKS, f"--config.dataset.feed={feed}", f"--workdir={tmp_path}", **WITHOUT_TENSORFLOW)
    assert broke.returncode == 2
    assert "Traceback" not in broke.stderr
    assert f"python main.py debug_nan --workdir={tmp_path}" in broke.stderr
    record = json.loads((tmp_path / "nan" / "nan.json").read_text())
    looked = run("debug_nan", f"--workdir={tmp_path}")
    assert looked.returncode == 0, looked.stderr
    (marked,) = [line for line in looked.stdout.splitlines() if line.endswith("<- the first")]
    assert marked.split()[0] == record["first_not_finite"]
    assert "Note: in the run" not in looked.stdout
    assert "optimizer.learning_rate" in looked.stdout
    pixels = np.asarray(Image.open(tmp_path / "nan" / "batch.png"))
    assert pixels.shape[1] > 8 * 96  # Eight pictures a row.
    as_json = run("debug_nan", f"--workdir={tmp_path}", "--format=json")
    (line,) = as_json.stdout.splitlines()
    found = json.loads(line)
    assert (found["step"], found["first_not_finite"]) == (record["step"], record["first_not_finite"])
    assert found["in_the_run"] == record["first_not_finite"]
    assert len({part["name"] for part in found["parts"] if part["kind"] == "layer"}) > 10
    assert found["pictures"] == str(tmp_path / "nan" / "batch.png")


def test_a_directory_without_a_broken_step_is_told(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "classes.json").write_text("[]")
    finished = run("debug_nan", f"--workdir={tmp_path}")
    assert finished.returncode == 2
    assert f"error: {tmp_path} holds no step that broke" in finished.stderr
