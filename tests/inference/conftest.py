"""A trained model, and image files for it."""

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import open_sources
from resnet_jax.trained_model import load_run


@pytest.fixture
def trained(tiny_run):
    return load_run(str(tiny_run))


@pytest.fixture(scope="session")
def images():
    """Digits: uint8 [300, 8, 8, 1]."""
    return open_sources("digits")["train"].images[:300]


@pytest.fixture
def write(tmp_path, images):
    """Return a function that writes files to a folder and returns their paths.

    Its argument maps file names to contents: bytes, or the index of one of `images`, which is written as an image file.
    """

    def write(contents, folder="images"):
        paths = [tmp_path / folder / name for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                Image.fromarray(np.asarray(images[content])[..., 0]).save(path)
        return [str(path) for path in paths]

    return write
