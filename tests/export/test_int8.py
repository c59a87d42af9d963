"""Quantization of a small network that separates bright from dark images."""

import errno

import jax
import numpy as np
import pytest

pytest.importorskip("onnxruntime")

import onnx

from resnet_jax.errors import UserError
from resnet_jax.export import int8
from resnet_jax.export.export_model import Quantization, export_model
from resnet_jax.export.int8 import Measurement, check_drop
from resnet_jax.export.program import Program
from resnet_jax.export.proof import run_in_fresh_process
from resnet_jax.terminal import Reporter
from tests.export.conftest import small_model

pytestmark = pytest.mark.slow


class FakeExamples:
    """Validation examples whose labels are those that the program predicts."""

    name = "validation images"

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def batches(self, batch_size):
        for start in range(0, len(self.images), batch_size):
            yield self.images[start : start + batch_size], self.labels[start : start + batch_size]


@pytest.fixture(scope="module")
def program():
    model, variables = small_model("resnet20", stage_sizes=(1, 1))

    def function(images):
        return {"logits": model.apply(variables, images.astype(np.float32) / 64 - 2, train=False)}

    return Program(function, (8, 8, 3), ("logits",), {"classes": ["a"]})


@pytest.fixture(scope="module")
def validation(program):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)
    return FakeExamples(images, np.asarray(jax.jit(program.function)(images)["logits"]).argmax(-1))


def export(program, validation, path, max_drop):
    with Reporter(active=False) as reporter:
        settings = Quantization(validation.images[:64], validation, "logits", max_drop)
        return export_model(program, str(path), validation.images[:8], reporter, quantization=settings)


def test_int8_file_keeps_most_predictions_and_is_smaller(program, validation, tmp_path):
    path = tmp_path / "model.onnx"
    exported = export(program, validation, path, max_drop=0.2)
    float32, int8 = exported.measured["float32"], exported.measured["int8"]
    assert float32.top1 == 1.0  # The labels are its own predictions.
    assert 0.8 <= int8.top1 < 1.0
    assert int8.same_as_first == round(300 * int8.top1)
    assert float32.same_as_first == 300
    assert int8.num_images == float32.num_images == 300
    assert path.stat().st_size == exported.num_bytes == int8.num_bytes
    assert int8.images_per_second > 0
    assert int8.latency_ms > 0
    model = onnx.load(path)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    assert {entry.key: entry.value for entry in model.metadata_props}["classes"] == '["a"]'
    assert list(tmp_path.iterdir()) == [path]


def test_latency_is_that_of_the_first_images(program, validation, tmp_path, monkeypatch):
    """Images are read in groups, and the last group may hold few."""
    timed = []

    def run(path, suffix, images, *batch_size):
        if batch_size:
            timed.append(images)
        return run_in_fresh_process(path, suffix, images, *batch_size)

    monkeypatch.setattr(int8, "run_in_fresh_process", run)
    monkeypatch.setattr(int8, "READS_PER_PROCESS", 4)  # groups of 256 and 44 images
    export(program, validation, tmp_path / "model.onnx", max_drop=1.0)
    assert [images.tobytes() for images in timed] == 2 * [validation.images[: int8.TIMED_IMAGES].tobytes()]


def test_int8_file_that_loses_too_much_is_refused_and_leaves_nothing(program, validation, tmp_path):
    with pytest.raises(
        UserError, match=r"int8 would lower the top-1 on validation images from 100\.00% to .* Nothing was"
    ):
        export(program, validation, tmp_path / "model.onnx", max_drop=0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("after", "refused"), [(0.90, False), (0.89, False), (0.889, True)])
def test_drop_is_absolute(after, refused):
    measured = {"float32": Measurement(0.9, 100, 100, 1, 1.0, 1.0), "int8": Measurement(after, 100, 100, 1, 1.0, 1.0)}
    if not refused:
        check_drop(measured, "validation images", 0.01)
        return
    message = r"on validation images from 90\.00% to 88\.90%, by more than --max_drop=0\.01"
    with pytest.raises(UserError, match=message):
        check_drop(measured, "validation images", 0.01)


def test_disk_that_fills_during_quantization_leaves_nothing(program, validation, tmp_path, monkeypatch):
    def fill_disk(source, target, calibration, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fill_disk)
    with pytest.raises(UserError, match=r"cannot write the model to .*model\.onnx \(No space left on device\)"):
        export(program, validation, tmp_path / "model.onnx", max_drop=1.0)
    assert not list(tmp_path.iterdir())
