"""Small data sets, and what the whole of an inspection says of them."""

import numpy as np
import pytest
from PIL import Image

from resnet_jax import config as settings
from resnet_jax.data.inspect.inspection import inspect
from resnet_jax.data.inspect.plan import make_plan
from resnet_jax.data.inspect.scan import look
from resnet_jax.data.sources import open_sources
from resnet_jax.terminal import Reporter


@pytest.fixture
def noise():
    """A function of (height, width) that makes another picture each time, uint8 [height, width, 3]."""
    random = np.random.default_rng(0)
    return lambda height=6, width=8: random.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A function that writes files, given as pixels or bytes by their paths, and returns the name of the data set."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "pictures" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                Image.fromarray(content).save(path)
        return f"folder:{tmp_path / 'pictures'}"

    return write


@pytest.fixture
def examine(single_device):
    """A function of a data set, or its name, and of settings of `config.dataset`, that gives its inspection."""

    def run(dataset, batch_size=1, **changed):
        config = settings.default()
        config.batch_size = batch_size
        config.dataset.validation_split = "none"
        for name, value in changed.items():
            config.dataset[name] = value
        if isinstance(dataset, str):
            config.dataset.name, dataset = dataset, open_sources(dataset)
        looked = look(dataset, 0, Reporter(active=False))
        return inspect(config, dataset, looked, make_plan(config, looked, single_device))

    return run
