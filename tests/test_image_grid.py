import numpy as np

from resnet_jax import image_grid


def test_grid_places_each_image_without_blur():
    red, blue = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    grid = image_grid.grid(np.stack([red, blue, red]), ["red", "blue", "red"], columns=2)
    assert grid.dtype == np.uint8
    middle = image_grid.GAP + image_grid.CELL // 2
    assert grid[middle, middle].tolist() == [255, 0, 0]
    assert grid[middle, middle + image_grid.CELL + image_grid.GAP].tolist() == [0, 0, 255]
    assert grid[middle + image_grid.CELL + image_grid.LINE_HEIGHT + image_grid.GAP, middle].tolist() == [255, 0, 0]


def test_caption_is_drawn_below_its_image():
    images = np.full((1, 8, 8, 1), 255, np.uint8)
    blank, captioned = image_grid.grid(images, [""]), image_grid.grid(images, ["a cat"])
    changed = np.argwhere((blank != captioned).any(-1))
    assert len(changed)
    assert changed[:, 0].min() >= image_grid.GAP + image_grid.CELL


def test_long_caption_stays_within_its_cell():
    images = np.full((2, 8, 8, 3), 255, np.uint8)
    grid = image_grid.grid(images, ["a very long class name indeed, and longer", ""])
    assert (grid[:, image_grid.GAP + image_grid.CELL + image_grid.GAP :] == 255).all()


def test_small_images_keep_their_pixels_and_large_images_are_smoothed():
    rows, columns = np.indices((image_grid.CELL * 4, image_grid.CELL * 4))
    stripes = ((rows + columns) % 2 * 255).astype(np.uint8)[..., None]
    cell = slice(image_grid.GAP, image_grid.GAP + image_grid.CELL)
    shrunk = image_grid.grid([stripes], [""])[cell, cell]
    assert 120 < shrunk.min() <= shrunk.max() < 136
    enlarged = image_grid.grid([stripes[:8, :8]], [""])[cell, cell]
    assert np.unique(enlarged).tolist() == [0, 255]


def test_images_keep_their_aspect_ratio():
    wide, tall = np.zeros((8, 16, 3), np.uint8), np.zeros((400, 100, 1), np.uint8)
    grid = image_grid.grid([wide, tall], ["", ""], columns=2)
    for number, (height, width) in enumerate(
        [(image_grid.CELL // 2, image_grid.CELL), (image_grid.CELL, image_grid.CELL // 4)]
    ):
        left = image_grid.GAP + number * (image_grid.CELL + image_grid.GAP)
        black = (grid[:, left : left + image_grid.CELL] == 0).all(-1)
        assert (black.any(1).sum(), black.any(0).sum()) == (height, width)
        assert black.sum() == height * width
        middle = np.argwhere(black).mean(0)
        assert middle.tolist() == [image_grid.GAP + image_grid.CELL / 2 - 0.5, image_grid.CELL / 2 - 0.5]


def test_rows_are_drawn_beside_their_titles():
    images = [[np.full((8, 8, 3), level, np.uint8) for level in levels] for levels in ([50], [100, 150])]
    sheet = image_grid.titled_rows([("cat", "1 image"), ("a very long name of a class indeed", "")], images)
    pitch = image_grid.ROW_CELL + image_grid.GAP
    start = sheet.shape[1] - 2 * pitch
    assert start == image_grid.MAX_TITLE_WIDTH + 2 * image_grid.TITLE_MARGIN
    assert sheet.shape[0] == 2 * pitch + image_grid.GAP
    assert np.unique(sheet[image_grid.GAP :, start:][: image_grid.ROW_CELL, : image_grid.ROW_CELL]).tolist() == [50]
    assert sheet[pitch + 20, start + pitch + 20].tolist() == [150] * 3
    for row in range(2):
        drawn = np.argwhere((sheet[row * pitch : (row + 1) * pitch, :start] < 255).any(-1))
        assert len(drawn)
        assert drawn[:, 1].max() < start - image_grid.TITLE_MARGIN + 1


def test_labeled_grid_captions_images_with_their_classes():
    """Soft labels are shown as their most likely class, and fractional pixel values are rounded."""
    images = np.full((2, 4, 4, 1), 100.4, np.float32)
    hard = image_grid.labeled_grid(images, np.array([1, 0]), ("cat", "dog"), columns=2)
    soft = image_grid.labeled_grid(images, np.array([[0.3, 0.7], [0.9, 0.1]]), ("cat", "dog"), columns=2)
    np.testing.assert_array_equal(hard, soft)
    np.testing.assert_array_equal(hard, image_grid.grid(np.full((2, 4, 4, 1), 100, np.uint8), ("dog", "cat"), 2))
