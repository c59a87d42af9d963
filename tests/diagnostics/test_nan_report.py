import numpy as np

from resnet_jax.diagnostics.nan_report import remedies, values_table
from resnet_jax.training.nan_triage import StepValue

IMAGES = np.arange(2 * 4 * 4 * 1, dtype=np.uint8).reshape(2, 4, 4, 1)


def step_values(**not_finite):
    """Return the values of a step of a small model; `not_finite` holds the fractions that are not finite, by kind."""
    values = [
        ("batch", "images", 255.0),
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


def first_column(table):
    return [line.split("  ")[0] for line in table.splitlines()[2:]]


def test_values_table_of_a_finite_step_omits_gradients_and_shows_the_largest_variable():
    expected = ["images", "labels", "conv/kernel (1 of 2 variables)", "conv", "head", "logits", "loss"]
    assert first_column(values_table(step_values())) == expected


def test_values_table_marks_the_first_non_finite_value_and_ends_soon_after():
    text = values_table(step_values(layer=0.5, result=1.0, gradient=1.0))
    assert [line for line in text.splitlines() if "<- the first" in line] == [
        next(line for line in text.splitlines() if line.startswith("conv  "))
    ]
    assert "50.00%" in text
    assert first_column(text)[-1] == "loss"
    long = values_table(step_values(batch=0.5, variable=1.0, layer=1.0, result=1.0))
    assert long.endswith("... and 3 more")


def test_values_table_shows_gradients_if_only_they_are_not_finite():
    text = values_table(step_values(gradient=1.0))
    assert first_column(text)[-2:] == ["the gradient of head/kernel", "the gradient of conv/kernel"]
    assert "a larger batch_norm.epsilon" in remedies(step_values(gradient=1.0), IMAGES)[0]


def test_remedies_of_a_finite_step_name_rounding_and_device():
    assert remedies(step_values(), IMAGES) == [
        "The step is finite here, so the non-finite values in the run were due to rounding or the device."
    ]


def test_remedies_depend_on_the_first_non_finite_value():
    assert "images themselves are not finite" in remedies(step_values(batch=0.1), IMAGES)[0]
    (advice,) = remedies(step_values(variable=0.1), IMAGES)
    assert "conv/kernel was not finite before the step" in advice
    assert "Check the labels" in remedies(step_values(result=1.0), IMAGES)[0]
    large = [StepValue("variable", "conv/kernel", 1e19, 0.0), StepValue("layer", "conv", 2e38, 0.5)]
    assert remedies(large, IMAGES) == [
        "Values have grown to 2e+38, in conv. Try a lower optimizer.learning_rate, more schedule.warmup_epochs or "
        "optimizer.grad_clip."
    ]


def test_remedies_mention_constant_images():
    images = IMAGES.copy()
    images[1] = 7
    assert remedies(step_values(), images)[-1].startswith("1 image has the same value in every pixel.")
