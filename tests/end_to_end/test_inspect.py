"""The command `inspect`."""

import json

import numpy as np
from PIL import Image

from tests.end_to_end.program import run


def test_inspect_counts_the_images_of_a_real_folder(tmp_path, test_data):
    """The folder holds photographs of ants and bees; DATA.md states how many."""
    finished = run(
        "inspect",
        "--config=configs/folder.py",
        f"--config.dataset.name=folder:{test_data / 'pictures' / 'hymenoptera'}",
        f"--contact_sheet={tmp_path}/sheet.png",
        "--format=json",
    )
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    inspection = json.loads(line)
    assert inspection["splits"]["train"]["classes"] == {"ants": 62, "bees": 60}
    assert inspection["splits"]["val"]["classes"] == {"ants": 35, "bees": 35}
    assert inspection["parts"]["training"] == {"split": "train", "examples": 122}
    assert inspection["memory"]["feed"] == "streaming"
    assert inspection["memory"]["device_bytes"] == 32 * 224 * 224 * 3
    assert not any(inspection[key] for key in ("unreadable", "ignored", "repeated", "would_spoil", "worth_knowing"))
    assert inspection["contact_sheet"] == f"{tmp_path}/sheet.png"
    with Image.open(inspection["contact_sheet"]) as sheet:
        assert sheet.width > 8 * 128


def test_inspect_needs_no_labels_for_pretraining(tmp_path):
    random = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{number}.png")
    finished = run(
        "inspect",
        "--config=configs/pretrain.py:simclr",
        f"--config.dataset.name=images:{tmp_path}",
        "--config.batch_size=4",
        f"--contact_sheet={tmp_path}/sheet.png",
        "--format=json",
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    inspection = json.loads(finished.stdout)
    assert inspection["parts"] == {"training": {"split": "train", "examples": 4}}
    assert inspection["would_spoil"] == []


def test_inspect_fails_on_a_folder_with_leakage_and_too_few_images(tmp_path):
    image = Image.fromarray(np.arange(75, dtype=np.uint8).reshape(5, 5, 3))
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        image.save(tmp_path / split / "cat" / "one.png")
    (tmp_path / "train" / "cat" / "empty.png").touch()
    finished = run(
        "inspect",
        "--config=configs/folder.py",
        f"--config.dataset.name=folder:{tmp_path}",
        f"--contact_sheet={tmp_path}/sheet.png",
    )
    assert finished.returncode == 1, finished.stderr
    verdict = finished.stdout.partition("\nVerdict\n")[2]
    assert "batch_size (32) exceeds the number of training examples (1)" in verdict
    assert "Leakage: 1 of 1 validation examples" in verdict
    assert f"{tmp_path}/train/cat/empty.png: the file is empty" in finished.stdout
