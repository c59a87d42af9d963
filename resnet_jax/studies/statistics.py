"""The mean of a metric over several runs, with its uncertainty."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Spread:
    """A metric over several runs.

    Attributes:
      values: the metric of each run.
      mean: their mean.
      std: their sample standard deviation, with n - 1 in the denominator; None for a single run.
      low, high: the 95 % confidence interval of the mean (Student 1908), which assumes that the values are normally
        distributed; None for a single run.
    """

    values: tuple[float, ...]
    mean: float
    std: float | None
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation and confidence interval of a metric over runs.

    Example:
      >>> result = spread([0.91, 0.93])
      >>> print(f"{result.mean:.2f} ± {result.std:.4f}, {result.low:.3f} to {result.high:.3f}")
      0.92 ± 0.0141, 0.793 to 1.047
    """
    from scipy import stats  # Imported here, because importing it takes longer than importing JAX.

    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Spread(tuple(map(float, array)), mean, None, None, None)
    std = float(array.std(ddof=1))
    half_width = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, len(array) - 1)) * std / math.sqrt(len(array))
    return Spread(tuple(map(float, array)), mean, std, mean - half_width, mean + half_width)
