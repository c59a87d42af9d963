"""The data doctor as a user calls it."""

import json

import numpy as np
from PIL import Image

from tests.end_to_end.program import run


def test_a_real_folder(tmp_path, test_data):
    """Ants and bees, of which DATA.md and the directories themselves say how many there are."""
    finished = run(
        "inspect",
        "--config=configs/folder.py",
        f"--config.dataset.name=folder:{test_data / 'pictures' / 'hymenoptera'}",
        f"--contact_sheet={tmp_path}/sheet.png",
        "--format=json",
    )
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    found = json.loads(line)
    assert found["splits"]["train"]["classes"] == {"ants": 62, "bees": 60}
    assert found["splits"]["val"]["classes"] == {"ants": 35, "bees": 35}
    assert found["parts"]["training"] == {"split": "train", "examples": 122}
    assert found["memory"]["feed"] == "streaming"
    assert found["memory"]["device_bytes"] == 32 * 224 * 224 * 3
    assert not any(found[key] for key in ("unreadable", "ignored", "repeated", "would_spoil", "worth_knowing"))
    assert found["contact_sheet"] == f"{tmp_path}/sheet.png"
    assert Image.open(found["contact_sheet"]).width > 8 * 128


def test_a_folder_that_would_spoil_a_run(tmp_path):
    picture = Image.fromarray(np.arange(75, dtype=np.uint8).reshape(5, 5, 3))
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        picture.save(tmp_path / split / "cat" / "one.png")
    (tmp_path / "train" / "cat" / "empty.png").touch()
    finished = run(
        "inspect",
        "--config=configs/folder.py",
        f"--config.dataset.name=folder:{tmp_path}",
        f"--contact_sheet={tmp_path}/sheet.png",
    )
    assert finished.returncode == 1, finished.stderr
    verdict = finished.stdout.partition("\nVerdict\n")[2]
    assert "batch_size 32 is more than the 1 training examples" in verdict
    assert "leakage: training has 1 of the 1 validation examples" in verdict
    assert f"{tmp_path}/train/cat/empty.png: the file is empty" in finished.stdout
