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


def test_rows_have_headings_and_a_scale():
    images = [[np.full((8, 8, 3), level, np.uint8) for level in levels] for levels in ([50, 100], [150, 200])]
    titles = [("cat", "1 image"), ("dog", "")]
    plain = image_grid.titled_rows(titles, images)
    headed = image_grid.titled_rows(titles, images, ["image", "a very long heading of a column"], red_to_blue())
    rows = headed[image_grid.LINE_HEIGHT :, : plain.shape[1]]
    np.testing.assert_array_equal(rows[image_grid.GAP :], plain[image_grid.GAP :])
    pitch = image_grid.ROW_CELL + image_grid.GAP
    for left in (plain.shape[1] - 2 * pitch, plain.shape[1] - pitch):
        heading = headed[: image_grid.LINE_HEIGHT, left : left + image_grid.ROW_CELL]
        assert (heading < 255).any()
    assert (headed[: image_grid.LINE_HEIGHT, plain.shape[1] - image_grid.GAP :] == 255).all()
    check_scale(headed, plain.shape[1], image_grid.GAP + image_grid.LINE_HEIGHT, image_grid.ROW_CELL)


def red_to_blue():
    return image_grid.Scale(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), "high", "low")


def check_scale(canvas, left, top, height):
    """Check that the scale is drawn there from top to bottom, with its two texts at its ends."""
    bar = canvas[top : top + height, left : left + image_grid.SCALE_WIDTH]
    assert (bar[0] == [255, 0, 0]).all() and (bar[-1] == [0, 0, 255]).all()
    texts = (canvas[:, left + image_grid.SCALE_WIDTH :] < 255).any(axis=(1, 2))
    rows = np.flatnonzero(texts)
    assert top <= rows.min() < top + image_grid.LINE_HEIGHT
    assert top + height - image_grid.LINE_HEIGHT <= rows.max() < top + height
    assert not texts[top + image_grid.LINE_HEIGHT : top + height - image_grid.LINE_HEIGHT].any()


def test_strip_places_images_captions_and_scale():
    """A large image is shrunk, and a small one keeps its pixels."""
    large, small = np.zeros((500, 1000, 3), np.uint8), np.full((2, 2, 1), 100, np.uint8)
    strip = image_grid.strip([large, small], ["wide\nsecond line", ""], red_to_blue())
    cell, pitch = image_grid.STRIP_CELL, image_grid.STRIP_CELL + image_grid.GAP
    assert strip.dtype == np.uint8
    assert strip.shape[0] == cell + 2 * image_grid.LINE_HEIGHT + 3 * image_grid.GAP
    black = np.argwhere((strip[:cell, : image_grid.GAP + cell] == 0).all(axis=-1))
    assert len(black) == cell * cell // 2
    assert (black.min(axis=0) == [image_grid.GAP + cell // 4, image_grid.GAP]).all()
    assert (strip[image_grid.GAP :, image_grid.GAP + pitch :][:cell, :cell] == 100).all()
    captions = (strip[image_grid.GAP + cell :] < 255).any(axis=-1)
    assert captions[:, :pitch].any() and not captions[:, pitch : 2 * pitch].any()
    check_scale(strip, image_grid.GAP + 2 * pitch, image_grid.GAP, cell)


def test_long_caption_of_a_strip_stays_within_its_cell():
    images = np.full((2, 8, 8, 3), 255, np.uint8)
    caption = "a very long class name indeed, " * 3
    strip = image_grid.strip(images, [caption, ""], red_to_blue())
    second = image_grid.STRIP_CELL + 2 * image_grid.GAP
    below = strip[image_grid.GAP + image_grid.STRIP_CELL :]
    assert (below[:, :second] < 255).any()
    assert (below[:, second : second + image_grid.STRIP_CELL] == 255).all()


def test_labeled_grid_captions_images_with_their_classes():
    """Soft labels are shown as their most likely class, and fractional pixel values are rounded."""
    images = np.full((2, 4, 4, 1), 100.4, np.float32)
    hard = image_grid.labeled_grid(images, np.array([1, 0]), ("cat", "dog"), columns=2)
    soft = image_grid.labeled_grid(images, np.array([[0.3, 0.7], [0.9, 0.1]]), ("cat", "dog"), columns=2)
    np.testing.assert_array_equal(hard, soft)
    np.testing.assert_array_equal(hard, image_grid.grid(np.full((2, 4, 4, 1), 100, np.uint8), ("dog", "cat"), 2))
