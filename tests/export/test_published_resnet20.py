"""Files of akamaster's ResNet-20, whose published error on CIFAR-10 is 8.27 %, on the test images."""

import numpy as np
import pytest

from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.export import stablehlo
from resnet_jax.export.program import make_program
from resnet_jax.export.proof import run_in_fresh_process
from resnet_jax.terminal import Reporter

pytestmark = pytest.mark.slow
PUBLISHED = 0.9173
PART = 2000  # images for the other formats, which predict the same classes as the ONNX file


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


@pytest.fixture(scope="module")
def program(published):
    return make_program(published, ["probabilities"], (32, 32, 3))


def predictions(path, images):
    return run_in_fresh_process(path, path.suffix, images).arrays["probabilities"].argmax(-1)


@pytest.fixture(scope="module")
def onnx_file(program, tmp_path_factory):
    """The file in float32."""
    pytest.importorskip("onnxruntime")
    from resnet_jax.export import onnx_format

    path = tmp_path_factory.mktemp("published") / "model.onnx"
    onnx_format.write(program, path, batch_size=None)
    return path


@pytest.fixture(scope="module")
def onnx_predictions(onnx_file, test_examples):
    """Labels that the ONNX file predicts for all test images."""
    return predictions(onnx_file, test_examples[0])


def test_onnx_file_has_the_published_accuracy(onnx_predictions, test_examples):
    assert np.mean(onnx_predictions == test_examples[1]) == pytest.approx(PUBLISHED, abs=1e-4)


def test_stablehlo_file_predicts_the_same_classes(program, onnx_predictions, test_examples, tmp_path):
    path = tmp_path / "model.stablehlo"
    stablehlo.write(program, path, batch_size=None)
    np.testing.assert_array_equal(predictions(path, test_examples[0][:PART]), onnx_predictions[:PART])


def test_int8_loses_at_most_half_a_point(onnx_file, onnx_predictions, test_examples, calibration, tmp_path):
    from resnet_jax.export import onnx_format

    images, labels = (array[:PART] for array in test_examples)
    path = tmp_path / "int8.onnx"
    onnx_format.quantize(onnx_file, path, calibration)
    assert np.mean(predictions(path, images) == labels) >= np.mean(onnx_predictions[:PART] == labels) - 0.005
    assert path.stat().st_size < 0.6 * onnx_file.stat().st_size
