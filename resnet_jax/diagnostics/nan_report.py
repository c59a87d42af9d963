"""Explanation of a step with non-finite values: a table of how its values grow from layer to layer, and remedies."""

from collections.abc import Sequence

import numpy as np

from resnet_jax.errors import program
from resnet_jax.terminal import table
from resnet_jax.training.nan_triage import BATCH, GRADIENT, LAYER, NORM, RESULT, VARIABLE, StepValue, first_not_finite

LARGE = 1e4  # Variables and layer outputs of healthy models are orders of magnitude smaller.
ROWS_AFTER_FIRST = 3  # Few, because the values computed from the first non-finite value are rarely finite.
REMEDIES_FOR_GROWTH = "a lower optimizer.learning_rate, more schedule.warmup_epochs or optimizer.grad_clip"


def values_table(values: Sequence[StepValue]) -> str:
    """Format the values of a step as a table.

    The first value that is not finite is marked, and the table ends a few rows after it.
    Each row holds the largest finite magnitude in one value, and the fraction of its elements that are not finite. One
    row stands for all parameters and running statistics: it shows the first non-finite value if this is one of them, or
    else the largest of them. Gradients are shown only if the first non-finite value is a gradient.

    Args:
      values: the values of the step, as `nan_triage.triage` returns them.

    Example:
      >>> values = [StepValue("variable", "conv/kernel", 0.5, 0.0), StepValue("layer", "conv", 3.0, 0.25)]
      >>> print(values_table(values))
      value                           largest  not finite
      ------------------------------  -------  ----------  ------------
      conv/kernel (1 of 1 variables)  0.5
      conv                            3        25.00%      <- the first
    """
    first = first_not_finite(values)
    variables = [value for value in values if value.kind == VARIABLE]
    shown_variable = first if first in variables else max(variables, key=lambda value: value.largest)
    listed = [value for value in values if value.kind != VARIABLE or value is shown_variable]
    if first is None or first.kind not in (GRADIENT, NORM):
        listed = [value for value in listed if value.kind not in (GRADIENT, NORM)]
    num_omitted = 0
    if first is not None:
        end = listed.index(first) + 1 + ROWS_AFTER_FIRST
        num_omitted = len(listed[end:])
        listed = listed[:end]
    rows = []
    for value in listed:
        name = f"{value} (1 of {len(variables):,} variables)" if value is shown_variable else str(value)
        largest = "" if value.not_finite == 1 else f"{value.largest:.3g}"
        fraction = f"{value.not_finite:.2%}" if value.not_finite else ""
        rows.append((name, largest, fraction, "<- the first" if value is first else ""))
    text = table(rows, header=("value", "largest", "not finite", ""))
    return f"{text}\n... and {num_omitted:,} more" if num_omitted else text


def remedies(values: Sequence[StepValue], images: np.ndarray) -> list[str]:
    """Return advice on what to try, in sentences.

    Args:
      values: the values of the step, as `nan_triage.triage` returns them.
      images: the images of the step, [batch, height, width, channels].
    """
    first = first_not_finite(values)
    largest = max((value for value in values if value.kind in (VARIABLE, LAYER)), key=lambda value: value.largest)
    advice = []
    if first is None:
        advice.append(
            "The step is finite here, so the non-finite values in the run were due to rounding or the device."
        )
    elif first.kind == BATCH:
        advice.append(f"The {first.name} themselves are not finite. Check the data and the settings of augment.")
    elif first.kind == VARIABLE:
        advice.append(
            f"{first} was not finite before the step, because the preceding update was too large. "
            f"Try {REMEDIES_FOR_GROWTH}."
        )
    elif first.kind == RESULT:
        advice.append(f"All layers are finite, but the {first} is not. Check the labels and the settings of loss.")
    elif first.kind == GRADIENT:
        advice.append(
            "Everything before the gradients is finite, so products in the backward pass exceed the largest float. "
            "optimizer.grad_clip is applied too late to help. A lower optimizer.learning_rate or a larger "
            "batch_norm.epsilon may help."
        )
    elif first.kind == NORM:
        advice.append(f"All gradients are finite, but so large that their norm is not. Try {REMEDIES_FOR_GROWTH}.")
    if largest.largest > LARGE and not (first and first.kind == VARIABLE):
        advice.append(f"Values have grown to {largest.largest:.3g}, in {largest}. Try {REMEDIES_FOR_GROWTH}.")
    num_constant = int((np.ptp(images.reshape(len(images), -1), axis=1) == 0).sum())
    if num_constant:
        have = "1 image has" if num_constant == 1 else f"{num_constant:,} images have"
        advice.append(f"{have} the same value in every pixel. Check the dataset with: {program()} inspect --config=...")
    return advice
