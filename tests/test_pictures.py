import numpy as np

from resnet_jax import pictures


def test_grid_places_each_picture_unblurred():
    red, blue = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    grid = pictures.grid(np.stack([red, blue, red]), ["red", "blue", "red"], columns=2)
    assert grid.dtype == np.uint8
    middle = pictures.GAP + pictures.CELL // 2
    assert grid[middle, middle].tolist() == [255, 0, 0]
    assert grid[middle, middle + pictures.CELL + pictures.GAP].tolist() == [0, 0, 255]
    assert grid[middle + pictures.CELL + pictures.CAPTION + pictures.GAP, middle].tolist() == [255, 0, 0]


def test_captions_leave_ink_beneath_their_picture():
    images = np.full((1, 8, 8, 1), 255, np.uint8)
    blank, captioned = pictures.grid(images, [""]), pictures.grid(images, ["a cat"])
    differs = np.argwhere((blank != captioned).any(-1))
    assert len(differs)
    assert differs[:, 0].min() >= pictures.GAP + pictures.CELL


def test_long_captions_stay_within_their_cell():
    images = np.full((2, 8, 8, 3), 255, np.uint8)
    grid = pictures.grid(images, ["a very long class name indeed, and longer", ""])
    assert (grid[:, pictures.GAP + pictures.CELL + pictures.GAP :] == 255).all()
