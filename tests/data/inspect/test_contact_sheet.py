import pathlib

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.inspect import contact_sheet
from resnet_jax.data.inspect.scan import scan_images
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.errors import UserError
from resnet_jax.image_grid import GAP, ROW_CELL
from resnet_jax.terminal import Reporter

STEP = ROW_CELL + GAP


def draw(tmp_path, sources, positions=None):
    scanned = scan_images(sources, 0, Reporter(active=False))
    positions = np.arange(len(scanned.records)) if positions is None else positions
    path = str(tmp_path / "sheet.png")
    assert contact_sheet.write(path, scanned, positions) == path
    assert [file.name for file in tmp_path.glob("*sheet*")] == ["sheet.png"]
    assert [file.name for file in tmp_path.glob(".*")] == []
    return np.asarray(Image.open(path))


def colors(levels, labels, classes):
    """Return images of 2 x 2 pixels, each of a single gray level."""
    images = np.array(levels, np.uint8).reshape(-1, 1, 1, 1).repeat(2, 1).repeat(2, 2)
    return {"train": ArraySource(images, np.array(labels), classes)}


def test_sheet_has_a_row_per_class(tmp_path):
    sheet = draw(tmp_path, colors([10, 20, 30], [0, 1, 1], ("cat", "dog", "fox")))
    assert sheet.shape[0] == 2 * STEP + GAP
    start = sheet.shape[1] - 2 * STEP
    middle = ROW_CELL // 2
    rows = [
        [sheet[GAP + row * STEP + middle, start + column * STEP + middle].tolist() for column in (0, 1)]
        for row in (0, 1)
    ]
    assert rows == [[[10] * 3, [255] * 3], [[20] * 3, [30] * 3]]


def test_sheet_is_limited_to_a_number_of_classes_and_images(tmp_path):
    labels = np.concatenate([np.arange(30), np.zeros(50, int)])
    sources = colors(np.arange(80), labels, tuple(f"class {number}" for number in range(30)))
    sheet = draw(tmp_path, sources)
    assert sheet.shape[0] == contact_sheet.MAX_CLASSES * STEP + GAP
    row = sheet[GAP + ROW_CELL // 2, sheet.shape[1] - contact_sheet.MAX_IMAGES * STEP + ROW_CELL // 2 :: STEP, 0]
    assert len(np.unique(row)) == len(row) == contact_sheet.MAX_IMAGES
    assert (draw(tmp_path, sources) == sheet).all()


def test_sheet_shows_the_given_positions_only(tmp_path):
    sheet = draw(tmp_path, colors([10, 20, 30], [0, 0, 0], ("cat",)), np.array([1]))
    assert 20 in sheet[GAP + ROW_CELL // 2]
    assert not {10, 30} & set(sheet[GAP + ROW_CELL // 2, -STEP:].ravel())


def test_image_deleted_after_the_scan_is_left_out(tmp_path, folder, noise):
    sources = open_sources(folder({"cat/a.png": noise(), "cat/b.png": noise(), "cat/c.png": b""}))
    scanned = scan_images(sources, 0, Reporter(active=False))
    kept, deleted = (position for position in range(3) if position not in scanned.unreadable)
    pathlib.Path(scanned.subset.name(deleted)).unlink()
    last_cells = []
    for positions in (np.arange(3), np.array([kept])):
        assert contact_sheet.write(str(tmp_path / "sheet.png"), scanned, positions)
        last_cells.append(np.asarray(Image.open(tmp_path / "sheet.png"))[:, -STEP:])
    np.testing.assert_array_equal(*last_cells)


def test_nothing_is_written_if_there_is_nothing_to_show(tmp_path):
    scanned = scan_images(colors([10], [-1], ("cat",)), 0, Reporter(active=False))
    assert contact_sheet.write(str(tmp_path / "sheet.png"), scanned, np.arange(1)) is None
    assert not list(tmp_path.iterdir())


def test_check_rejects_paths_that_cannot_be_written(tmp_path):
    contact_sheet.check(str(tmp_path / "sheet.png"))
    for path in (tmp_path, tmp_path / "no" / "sheet.png"):
        with pytest.raises(UserError, match="cannot write the contact sheet"):
            contact_sheet.check(str(path))
