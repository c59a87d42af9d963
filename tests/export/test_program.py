import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.export import program
from resnet_jax.export.program import OUTPUTS, make_program
from resnet_jax.runtime import provenance
from resnet_jax.trained_model import load_run

IMAGE_SHAPE = (8, 8, 1)


@pytest.fixture
def trained(tiny_run):
    return load_run(str(tiny_run))


def random_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, *IMAGE_SHAPE), np.uint8)


def test_program_computes_the_predictions_of_the_model(trained):
    images = random_images(5)
    outputs = make_program(trained, OUTPUTS, IMAGE_SHAPE).function(images)
    assert list(outputs) == list(OUTPUTS)
    np.testing.assert_allclose(outputs["probabilities"], trained.predict(images).probabilities, atol=1e-6)
    np.testing.assert_allclose(
        jnp.exp(outputs["logits"]) / jnp.exp(outputs["logits"]).sum(-1, keepdims=True), outputs["probabilities"], 1e-5
    )
    (expected,) = trained.outputs(trained._in_memory_examples(images))
    np.testing.assert_allclose(outputs["features"], expected.features, rtol=1e-5, atol=1e-6)


def test_program_applies_the_temperature_of_a_calibrated_model(trained):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    calibrated = trained.with_temperature(2.5)
    exported = make_program(calibrated, ["probabilities"], (8, 8, 1)).function(images)["probabilities"]
    np.testing.assert_allclose(exported, calibrated.predict(images).probabilities, rtol=1e-5)
    assert not np.allclose(exported, trained.predict(images).probabilities, rtol=1e-2)


def test_program_computes_in_float32_even_if_the_model_does_not(trained):
    in_bfloat16 = dataclasses.replace(trained, model=trained.model.clone(dtype=jnp.bfloat16))
    images = random_images(3)
    expected = make_program(trained, ["logits"], IMAGE_SHAPE).function(images)["logits"]
    actual = make_program(in_bfloat16, ["logits"], IMAGE_SHAPE).function(images)["logits"]
    np.testing.assert_array_equal(actual, expected)


def test_metadata_say_how_to_prepare_images_and_where_the_model_comes_from(trained, tiny_run):
    metadata = json.loads(make_program(trained, ["logits"], IMAGE_SHAPE).metadata_json())
    best = json.loads((tiny_run / "figures.json").read_text())["figures"][str(trained.step)]
    assert metadata["classes"] == [str(digit) for digit in range(10)]
    assert metadata["validation"]["top1"] == best["top1"]
    assert metadata["step"] == trained.step
    assert metadata["center_crop"] == metadata["resize_shorter_side"] == 8
    assert metadata["mean"] == pytest.approx(trained.config.dataset.mean)
    assert metadata["commit"] == provenance.describe()["commit"]
    assert len(metadata["config_sha256"]) == 64
    assert metadata["thresholds"] is None


def test_metadata_have_the_thresholds_of_a_model_for_any_number_of_labels(trained):
    config = trained.config.copy_and_resolve_references()
    config.dataset.multi_label, config.dataset.bit_depth = True, 12
    thresholds = tuple(number / 10 for number in range(10))
    multi_label = dataclasses.replace(trained, config=config, thresholds=thresholds)
    metadata = make_program(multi_label, ["probabilities"], IMAGE_SHAPE).metadata
    assert (metadata["thresholds"], metadata["bit_depth"]) == (thresholds, 12)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["logit"], "Did you mean logits"),
        ([], "is empty or repeats a name"),
        (["logits", "logits"], "is empty or repeats a name"),
    ],
)
def test_unknown_missing_and_repeated_outputs_are_refused(trained, outputs, message):
    with pytest.raises(UserError, match=message):
        make_program(trained, outputs, IMAGE_SHAPE)


def test_weights_that_no_file_can_hold_are_refused(trained, monkeypatch):
    monkeypatch.setattr(program, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"and a file that runs holds at most 0\.0 GB\. Export them as \.s"):
        make_program(trained, ["logits"], IMAGE_SHAPE)
