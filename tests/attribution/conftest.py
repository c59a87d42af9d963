import jax.numpy as jnp
import pytest

from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.terminal import Reporter


@pytest.fixture(scope="session")
def model(published) -> AttributionModel:
    """The published ResNet-20, as attribution methods use it."""
    return published.attribution_model


@pytest.fixture(scope="session")
def images(published, test_data):
    """32 test images of CIFAR-10, normalized: float32 [32, 32, 32, 3]."""
    subset = Subset.from_split(open_sources("cifar10", str(test_data / "tfds")), "test[:32]")
    pixels = read_examples(subset, Reporter(active=False)).images
    return published.preprocess(jnp.asarray(pixels))


@pytest.fixture(scope="session")
def targets(model, images):
    """The predicted classes of the images."""
    return jnp.argmax(model.logits(images), axis=-1)
