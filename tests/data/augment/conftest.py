"""Pictures to augment: noise, in which every mistake shows, and smooth ones, which can be interpolated."""

import numpy as np
import pytest


@pytest.fixture
def noise():
    """uint8 [5, 20, 28, 3]; each picture has another range of values."""
    lowest, highest = np.array([0, 20, 90, 0, 200]), np.array([255, 240, 130, 60, 255])
    shares = np.random.default_rng(0).random((5, 20, 28, 3))
    return np.round(lowest[:, None, None, None] + shares * (highest - lowest)[:, None, None, None]).astype(np.uint8)


@pytest.fixture
def smooth():
    """uint8 [20, 28, 3]: waves of one to three periods, another one in each channel."""
    rows, columns = np.meshgrid(np.linspace(0, 6, 20), np.linspace(0, 6, 28), indexing="ij")
    waves = np.stack([np.sin(rows), np.cos(columns + rows), np.sin(2 * columns) * np.cos(rows)], axis=-1)
    return np.round(127.5 + 120 * waves).astype(np.uint8)
