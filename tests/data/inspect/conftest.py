"""Small datasets and their inspections."""

import numpy as np
import pytest
from PIL import Image

from resnet_jax import config as settings
from resnet_jax.data.inspect.inspection import inspect
from resnet_jax.data.inspect.plan import make_plan
from resnet_jax.data.inspect.scan import scan_images
from resnet_jax.data.sources import open_sources
from resnet_jax.terminal import Reporter


@pytest.fixture
def noise():
    """Return a function of (height, width) that returns a new random image, uint8 [height, width, 3]."""
    random = np.random.default_rng(0)
    return lambda height=6, width=8: random.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes files, a dict from path to pixels or bytes, and returns the name of the dataset."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                Image.fromarray(content).save(path)
        return f"folder:{tmp_path / 'images'}"

    return write


@pytest.fixture
def examine(single_device):
    """Return a function that inspects a dataset, given as sources or by name. Keywords change `config.dataset`."""

    def run(dataset, batch_size=1, **changed):
        config = settings.default()
        config.batch_size = batch_size
        config.dataset.validation_split = "none"
        for name, value in changed.items():
            config.dataset[name] = value
        if isinstance(dataset, str):
            config.dataset.name, dataset = dataset, open_sources(dataset)
        scanned = scan_images(dataset, 0, Reporter(active=False))
        return inspect(config, dataset, scanned, make_plan(config, scanned, single_device))

    return run
