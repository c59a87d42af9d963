"""An untrained model and random images for it."""

import jax
import numpy as np
import pytest

from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.models.factory import create_model

PREPROCESS = Preprocess((0.5,), (0.25,))


def random_examples(size):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (size, 8, 8, 1), np.uint8)
    return InMemoryExamples(images, generator.integers(0, 10, size).astype(np.int32), np.arange(size))


@pytest.fixture
def model_and_variables():
    model = create_model("tiny", 10)
    return model, model.init(jax.random.key(0), np.zeros((1, 8, 8, 1)), train=False)
