"""Explanations from Python, with the model of a short run on digits."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from resnet_jax import trained_model
from resnet_jax.attribution.methods import METHODS
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import open_external_examples
from resnet_jax.evaluation.metrics import ExampleMetrics
from resnet_jax.inference.example_choice import choose_examples
from resnet_jax.inference.explain import Explainer, Problem
from resnet_jax.inference.faithfulness_table import Faithfulness, Mean, format_table
from resnet_jax.terminal import Reporter


@pytest.fixture(scope="module")
def digits():
    source = open_sources("digits")["test"]
    return source.images[:5]


@pytest.mark.parametrize(
    "name",
    ["grad_cam"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in METHODS
        if name not in ("grad_cam", "rise", "smooth_grad", "occlusion")
    ],
)
def test_explain_returns_a_map_per_image(trained, digits, name):
    maps = trained.explain(digits, name)
    assert (maps.shape, maps.dtype) == (digits.shape[:3], np.float32)
    assert maps.any()
    assert np.abs(maps).max(axis=(1, 2)).all() or name.startswith(("grad_cam", "layer_cam"))
    np.testing.assert_allclose(trained.explain(digits[3:4], name), maps[3:4], rtol=1e-3, atol=1e-5)


def test_explain_returns_maps_in_the_geometry_of_the_images(trained, digits):
    """Digits that are twice as large and lie in the middle of a wide image have the same maps in the middle."""
    large = np.zeros((5, 16, 30, 1), np.uint8)
    large[:, :, 7:23] = digits.repeat(2, axis=1).repeat(2, axis=2)
    maps = trained.explain(large, "input_gradient")
    assert maps.shape == (5, 16, 30)
    assert not maps[:, :, :7].any() and not maps[:, :, 23:].any()
    expected = trained.explain(digits, "input_gradient")
    inner = maps[:, :, 7:23].reshape(5, 8, 2, 8, 2).mean(axis=(2, 4))
    assert np.corrcoef(inner.ravel(), expected.ravel())[0, 1] > 0.8


def test_maps_are_zero_outside_the_crop_of_evaluation(trained, digits):
    """With `eval_resize` 10 and `eval_crop` 8, evaluation crops a tenth of the central square at each side."""
    config = trained.config.copy_and_resolve_references()
    config.dataset.eval_resize, config.dataset.eval_crop = 10, 8
    maps = dataclasses.replace(trained, config=config).explain(np.full((1, 40, 60, 1), 99, np.uint8), "input_gradient")
    seen = np.zeros((40, 60), bool)
    seen[4:36, 14:46] = True
    np.testing.assert_array_equal(maps[0] != 0, seen)


def test_explain_explains_the_given_class(trained, digits):
    predicted = trained.predict(digits).names[0]
    other = "3" if predicted != "3" else "4"
    same, different = (trained.explain(digits[:1], "input_gradient", target) for target in (predicted, other))
    np.testing.assert_array_equal(same, trained.explain(digits[:1], "input_gradient"))
    assert not np.allclose(same, different)


def test_class_whose_name_is_not_unique_is_chosen_by_its_label(trained, digits):
    twins = dataclasses.replace(trained, classes=("crane", "crane", *trained.classes[2:]))
    maps = twins.explain(digits[:1], "input_gradient", target="crane (label 1)")
    np.testing.assert_array_equal(maps, trained.explain(digits[:1], "input_gradient", target="1"))
    with pytest.raises(UserError, match=r"unknown class 'crane'. Did you mean crane \(label 1\) or crane \(label 0\)"):
        twins.explain(digits[:1], target="crane")


def test_model_that_is_not_finite_is_not_explained(trained, digits):
    broken = dataclasses.replace(trained, variables=jax.tree.map(lambda array: array * np.nan, trained.variables))
    with pytest.raises(UserError, match="not finite"):
        broken.explain(digits)


def test_explain_of_no_images_returns_no_maps(trained, digits):
    assert trained.explain(digits[:0]).shape == (0, 8, 8)
    with pytest.raises(UserError, match="unknown method"):
        trained.explain(digits[:0], "gradcam")


class BrokenSource:
    """Digits, of which the second one cannot be read."""

    channels = 1

    def __init__(self, source):
        self._source, self.classes = source, source.classes

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            raise Unreadable("it is empty")
        return self._source[index]


@pytest.mark.slow
def test_explainer_reports_unreadable_images_in_their_place(tiny_run, single_device, monkeypatch):
    """The four images are two batches."""
    monkeypatch.setattr(trained_model, "MAX_ATTRIBUTION_BATCH_PER_DEVICE", 2)
    trained = trained_model.load_run(str(tiny_run), single_device)
    source = BrokenSource(open_sources("digits")["test"])
    examples = open_external_examples(trained, Subset.from_split({"test": source}, "test"), reporter=None)
    explainer = Explainer(trained, ("input_gradient", "hires_cam", "input_gradient"))
    assert explainer.methods == ("input_gradient", "hires_cam")
    batches = explainer.explain(examples, Reporter(active=False), has_labels=True)
    by_batch = [list(batch) for _, batch in batches]
    assert list(map(len, by_batch)) == [2, 2]
    explanations = by_batch[0] + by_batch[1]
    assert explanations[1] == Problem("test[1]", "it is empty")
    assert [explanation.name for explanation in explanations] == [f"test[{index}]" for index in range(4)]
    for index in (0, 2, 3):
        pixels, label = source[index]
        np.testing.assert_array_equal(explanations[index].pixels, pixels)
        assert explanations[index].label == source.classes[label]
        maps = trained.explain(pixels[None], "input_gradient")
        np.testing.assert_allclose(explanations[index].maps["input_gradient"], maps[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gradcam"}, "unknown method 'gradcam'. Did you mean grad_cam"),
        ({"target": "cat"}, "unknown class 'cat'"),
        ({"stage": "stage7"}, "unknown stage 'stage7'. Did you mean stage"),
    ],
)
def test_unknown_names_are_reported(trained, digits, arguments, message):
    with pytest.raises(UserError, match=message):
        trained.explain(digits, **arguments)


class Examples:
    """A subset that remembers which positions were taken from it."""

    label_sets = None

    def __len__(self):
        return 6

    def take(self, positions):
        return list(positions)


@pytest.fixture
def evaluator():
    """Six examples at the positions 10 to 15 of the subset. Those at 11 and 13 are classified wrongly."""
    label = np.zeros(6, np.int32)
    prediction = np.array([0, 1, 0, 1, 0, 0], np.int32)
    metrics = ExampleMetrics(
        position=np.arange(6),
        label=label,
        loss=np.array([0.1, 2.0, 0.3, 3.0, 0.2, 0.5]),
        prediction=prediction,
        confidence=np.array([0.9, 0.8, 0.7, 0.9, 0.95, 0.6]),
        in_top5=np.ones(6, bool),
    )
    scored = types.SimpleNamespace(metrics=metrics, examples=types.SimpleNamespace(subset_positions=np.arange(10, 16)))
    return types.SimpleNamespace(subset=Examples(), models={"a": None}, split="test", score=lambda name: scored)


@pytest.mark.parametrize(
    ("choice", "positions"), [("worst:5", [13, 11]), ("worst:1", [13]), ("best:2", [14, 10]), ("3,0,3", [3, 0])]
)
def test_examples_are_chosen(evaluator, choice, positions):
    assert choose_examples(evaluator, choice) == positions


def test_random_examples_are_distinct_and_the_same_in_every_call(evaluator):
    chosen = choose_examples(evaluator, "random:4")
    assert len(set(chosen)) == 4
    assert chosen == choose_examples(evaluator, "random:4")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("worst", "--examples=worst names no examples. Write, for example, worst:16"),
        ("0:3", "--examples=0:3 names no examples."),
        ("worst:", "has no count. Write, for example, worst:16"),
        ("bset:3", "unknown choice of examples 'bset'. Did you mean best"),
        ("6", "goes beyond the last example"),
    ],
)
def test_wrong_choice_of_examples_is_reported(evaluator, choice, message):
    with pytest.raises(UserError, match=message):
        choose_examples(evaluator, choice)


def test_table_warns_of_methods_that_do_not_depend_on_the_head():
    measures = Faithfulness(Mean(0.4, 0.05), Mean(0.7, None), 0.5, None, 0.01)
    table = format_table(
        {
            "input_gradient": measures,
            "guided_backpropagation": dataclasses.replace(measures, random_head=0.96),
            "random": Faithfulness(Mean(0.5, 0.05), Mean(0.5, 0.1), None, None, None),
        }
    )
    assert "0.400 ± 0.050" in table and "0.700 ± -" in table
    assert "Guided backpropagation hardly changes if the head is random (rank correlation 0.96)" in table
    assert "Input gradient hardly" not in table
