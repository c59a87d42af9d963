"""Files of akamaster's ResNet-20, whose published error on CIFAR-10 is 8.27 %, on all 10,000 test images."""

import numpy as np
import pytest

from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.export.export_model import export_model
from resnet_jax.export.program import make_program
from resnet_jax.export.proof import run_in_fresh_process
from resnet_jax.terminal import Reporter

pytestmark = pytest.mark.slow
PUBLISHED = 0.9173


@pytest.fixture(scope="module")
def test_examples(test_data):
    """All test images and labels."""
    subset = Subset.from_split(open_sources("cifar10", str(test_data / "tfds")), "test")
    examples = read_examples(subset, Reporter(active=False))
    return examples.images, examples.labels


@pytest.fixture(scope="module")
def calibration(test_data):
    """512 training images."""
    subset = Subset.from_split(open_sources("cifar10", str(test_data / "tfds")), "train[:512]")
    return read_examples(subset, Reporter(active=False)).images


def accuracy(path, images, labels):
    return np.mean(run_in_fresh_process(path, path.suffix, images).arrays["probabilities"].argmax(-1) == labels)


@pytest.mark.parametrize("suffix", ["stablehlo", "onnx"])
def test_file_has_the_published_accuracy(published, test_examples, suffix, tmp_path):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    images, labels = test_examples
    path = tmp_path / f"model.{suffix}"
    program = make_program(published, ["probabilities"], (32, 32, 3))
    with Reporter(active=False) as reporter:
        export_model(program, str(path), images[:64], reporter)
    assert accuracy(path, images, labels) == pytest.approx(PUBLISHED, abs=1e-4)


def test_int8_loses_at_most_half_a_point(published, test_examples, calibration, tmp_path):
    pytest.importorskip("onnxruntime")
    from resnet_jax.export import onnx_format

    images, labels = test_examples
    float_file, int8_file = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    onnx_format.write(make_program(published, ["probabilities"], (32, 32, 3)), float_file, batch_size=None)
    onnx_format.quantize(float_file, int8_file, calibration)
    assert accuracy(int8_file, images, labels) >= PUBLISHED - 0.005
    assert int8_file.stat().st_size < 0.6 * float_file.stat().st_size
