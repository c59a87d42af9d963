"""The choice of examples to explain, such as the worst mistakes of a model."""

import numpy as np

from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError, unknown_name
from resnet_jax.evaluation.metrics import most_certain_successes, worst_mistakes
from resnet_jax.evaluation.model_comparison import Evaluator

RANKINGS = ("worst", "best", "random")


def choose_examples(evaluator: Evaluator, choice: str) -> Subset:
    """Return the examples of a split that `choice` names.

    Args:
      evaluator: a single model and the split.
      choice: "worst:16" (the wrongly classified examples whose true class got the lowest probability), "best:16" (the
        correctly classified ones with the highest probability), "random:16", or positions such as "3,17".

    Raises:
      UserError: if `choice` means none of these, or no example.
    """
    subset = evaluator.subset
    ranking, colon, count = choice.partition(":")
    if not colon:
        return subset.take(_parse_positions(choice, len(subset)))
    if not ranking or ranking.isdecimal():
        raise _no_examples(choice)
    if ranking not in RANKINGS:
        raise unknown_name("choice of examples", ranking, RANKINGS)
    if not count.isdecimal() or not int(count):
        raise UserError(f"--examples={choice} has no count. Write, for example, {ranking}:16.")
    if ranking == "random":
        order = np.random.default_rng(0).permutation(len(subset))
        return subset.take(order[: int(count)])
    if subset.label_sets is not None:
        raise UserError(f"--examples={choice} needs images with one label each. Choose random:{count}, or positions.")
    (name,) = evaluator.models
    scored = evaluator.score(name)
    find = worst_mistakes if ranking == "worst" else most_certain_successes
    indices = find(scored.metrics, int(count))
    if not len(indices):
        outcome = "wrongly" if ranking == "worst" else "correctly"
        raise UserError(f"no example of {evaluator.split} is {outcome} classified. Choose other --examples.")
    return subset.take(scored.examples.subset_positions[scored.metrics.position[indices]])


def _parse_positions(text: str, size: int) -> np.ndarray:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise _no_examples(text)
    positions = np.array(list(dict.fromkeys(map(int, words))))  # Examples that are named twice count once.
    if positions.max() >= size:
        raise UserError(
            f"--examples={text} goes beyond the last example of the split. Choose positions from 0 to {size - 1}."
        )
    return positions


def _no_examples(text: str) -> UserError:
    return UserError(
        f"--examples={text} names no examples. Write, for example, worst:16, best:16, random:16, or positions such as "
        "3,17."
    )
