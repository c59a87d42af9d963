import numpy as np

from resnet_jax.diagnostics.nan_report import remedies, values_table
from resnet_jax.training.nan_triage import StepValue

PICTURES = np.arange(2 * 4 * 4 * 1, dtype=np.uint8).reshape(2, 4, 4, 1)


def parts(**not_finite):
    """Of a small network; `not_finite` gives shares by kind."""
    values = [
        ("batch", "pictures", 255.0),
        ("batch", "labels", 9.0),
        ("variable", "conv/kernel", 0.5),
        ("variable", "head/kernel", 0.25),
        ("layer", "conv", 3.0),
        ("layer", "head", 2.0),
        ("result", "logits", 2.0),
        ("result", "loss", 1.0),
        ("gradient", "head/kernel", 0.1),
        ("gradient", "conv/kernel", 0.2),
    ]
    return [StepValue(kind, name, largest, not_finite.get(kind, 0.0)) for kind, name, largest in values]


def names(table):
    return [line.split("  ")[0] for line in table.splitlines()[2:]]


def test_a_finite_step_is_shown_without_gradients_and_with_its_largest_variable():
    expected = ["pictures", "labels", "conv/kernel (of 2 variables)", "conv", "head", "logits", "loss"]
    assert names(values_table(parts())) == expected
    assert remedies(parts(), PICTURES) == [
        "Here the step is finite: what it did in the run hung on the last bits, or on the device."
    ]


def test_the_table_ends_soon_after_the_first_that_is_not_finite_and_marks_it():
    text = values_table(parts(layer=0.5, result=1.0, gradient=1.0))
    assert [line for line in text.splitlines() if "<- the first" in line] == [
        next(line for line in text.splitlines() if line.startswith("conv  "))
    ]
    assert "50.00%" in text
    assert names(text)[-1] == "loss"
    beyond = values_table(parts(batch=0.5, variable=1.0, layer=1.0, result=1.0))
    assert beyond.endswith("... and 3 more")


def test_gradients_are_shown_where_only_these_are_not_finite():
    text = values_table(parts(gradient=1.0))
    assert names(text)[-2:] == ["the gradient of head/kernel", "the gradient of conv/kernel"]
    assert "a larger batch_norm.epsilon" in remedies(parts(gradient=1.0), PICTURES)[0]


def test_remedies_go_by_what_is_found():
    assert "pictures themselves are not finite" in remedies(parts(batch=0.1), PICTURES)[0]
    (spoilt,) = remedies(parts(variable=0.1), PICTURES)
    assert "conv/kernel was not finite before the step" in spoilt
    assert "look at the labels" in remedies(parts(result=1.0), PICTURES)[0]
    grown = [StepValue("variable", "conv/kernel", 1e19, 0.0), StepValue("layer", "conv", 2e38, 0.5)]
    assert remedies(grown, PICTURES) == [
        "Values have grown to 2e+38, in conv. Try a lower optimizer.learning_rate, more schedule.warmup_epochs or "
        "optimizer.grad_clip."
    ]
    constant = PICTURES.copy()
    constant[1] = 7
    assert remedies(parts(), constant)[-1].startswith("1 picture is of one value throughout")
