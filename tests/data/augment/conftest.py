"""Images to augment: noise, in which every error shows, and smooth images, which can be interpolated."""

import numpy as np
import pytest


@pytest.fixture
def noise():
    """Return noise, uint8 [5, 20, 28, 3]; each image has its own range of values."""
    lowest, highest = np.array([0, 20, 90, 0, 200]), np.array([255, 240, 130, 60, 255])
    fractions = np.random.default_rng(0).random((5, 20, 28, 3))
    return np.round(lowest[:, None, None, None] + fractions * (highest - lowest)[:, None, None, None]).astype(np.uint8)


@pytest.fixture
def smooth():
    """Return waves of about one to two periods, different in each channel: uint8 [20, 28, 3]."""
    rows, columns = np.meshgrid(np.linspace(0, 6, 20), np.linspace(0, 6, 28), indexing="ij")
    waves = np.stack([np.sin(rows), np.cos(columns + rows), np.sin(2 * columns) * np.cos(rows)], axis=-1)
    return np.round(127.5 + 120 * waves).astype(np.uint8)
