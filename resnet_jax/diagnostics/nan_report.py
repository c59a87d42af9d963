"""What is told of a step that is not finite: how its values grow from layer to layer, and what to try."""

from collections.abc import Sequence

import numpy as np

from resnet_jax.terminal import table
from resnet_jax.training.nan_triage import BATCH, GRADIENT, LAYER, RESULT, VARIABLE, StepValue, first_not_finite

LARGE = 1e4  # Of healthy networks variables and outputs of layers are orders of magnitude below.
SHOWN_BEYOND = 3  # the first value that is not finite: what follows from it is not finite either
SLOWER = "a lower optimizer.learning_rate, more schedule.warmup_epochs or optimizer.grad_clip"


def values_table(parts: Sequence[StepValue]) -> str:
    """How values grow up to the first that is not finite, which is marked: largest magnitudes, and shares not finite.

    Of parameters and running statistics one stands for all: the first that is not finite, else the largest. Gradients
    are shown where it is only these that are not finite.
    """
    first = first_not_finite(parts)
    variables = [part for part in parts if part.kind == VARIABLE]
    shown = first if first in variables else max(variables, key=lambda part: part.largest)
    listed = [part for part in parts if part.kind != VARIABLE or part is shown]
    if first is None or first.kind != GRADIENT:
        listed = [part for part in listed if part.kind != GRADIENT]
    left_out = 0
    if first is not None:
        end = listed.index(first) + 1 + SHOWN_BEYOND
        listed, left_out = listed[:end], len(listed[end:])
    rows = []
    for part in listed:
        name = f"{part} (of {len(variables):,} variables)" if part is shown else str(part)
        largest = "" if part.not_finite == 1 else f"{part.largest:.3g}"
        share = f"{part.not_finite:.2%}" if part.not_finite else ""
        rows.append((name, largest, share, "<- the first" if part is first else ""))
    text = table(rows, header=("value", "largest", "not finite", ""))
    return f"{text}\n... and {left_out:,} more" if left_out else text


def remedies(parts: Sequence[StepValue], images: np.ndarray) -> list[str]:
    """What to try, in sentences, by what was found.

    Args:
      parts: of the step, as `nan_triage.triage` gives them.
      images: its pictures, [batch, height, width, channels].
    """
    first, advice = first_not_finite(parts), []
    largest = max((part for part in parts if part.kind in (VARIABLE, LAYER)), key=lambda part: part.largest)
    if first is None:
        advice.append("Here the step is finite: what it did in the run hung on the last bits, or on the device.")
    elif first.kind == BATCH:
        advice.append(f"The {first.name} themselves are not finite: look for the fault in the data and in augment.")
    elif first.kind == VARIABLE:
        advice.append(f"{first} was not finite before the step: the update before it was too large. Try {SLOWER}.")
    elif first.kind == RESULT:
        advice.append(f"All layers are finite, and the {first} is not: look at the labels and at the settings of loss.")
    elif first.kind == GRADIENT:
        advice.append(
            "All that comes before is finite: products on the way back pass the largest float. optimizer.grad_clip "
            "comes too late for that; a lower optimizer.learning_rate or a larger batch_norm.epsilon may help."
        )
    if largest.largest > LARGE and not (first and first.kind == VARIABLE):
        advice.append(f"Values have grown to {largest.largest:.3g}, in {largest}. Try {SLOWER}.")
    constant = int((np.ptp(images.reshape(len(images), -1), axis=1) == 0).sum())
    if constant:
        of_one_colour = "1 picture is" if constant == 1 else f"{constant:,} pictures are"
        advice.append(f"{of_one_colour} of one value throughout: python main.py inspect looks through the data set.")
    return advice
