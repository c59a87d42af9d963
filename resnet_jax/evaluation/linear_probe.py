"""A linear classifier on fixed features: logistic regression whose regularization is chosen on validation."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resnet_jax.evaluation.nearest_neighbors import LabeledFeatures

# Inverse strengths of the L2 penalty (scikit-learn's C).
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
MAX_ITERATIONS = 300  # of L-BFGS


class LinearProbe(NamedTuple):
    """A fitted classifier.

    Attributes:
      strength: the C that was chosen.
      validation_top1: the accuracy on the validation examples with which it was chosen.
      classes: int [classes], the labels that it knows.
      mean, std: float32 [width], which standardize the features.
      kernel: float64 [width, classes].
      bias: float64 [classes].
    """

    strength: float
    validation_top1: float
    classes: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def ranking(self, values: np.ndarray) -> np.ndarray:
        """Return the labels of each example, the most probable first: int [n, classes].

        Args:
          values: float32 [n, width].
        """
        logits = (values - self.mean) / self.std @ self.kernel + self.bias
        return self.classes[np.argsort(-logits, axis=-1, kind="stable")]


def fit(train: LabeledFeatures, validation: LabeledFeatures, strengths: Sequence[float] = STRENGTHS) -> LinearProbe:
    """Fit logistic regressions by L-BFGS, and return the one with the highest validation accuracy.

    Of equally accurate ones, the most regularized is chosen.

    Args:
      train: examples of at least two classes.
      validation: the examples on which the regularization is chosen.
      strengths: the values of C to try.
    """
    # Imported here, because importing it takes longer than importing JAX.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, std = train.values.mean(0), train.values.std(0) + 1e-6
    standardized = ((train.values - mean) / std).astype(np.float64)
    best: LinearProbe | None = None
    regression = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    for strength in sorted(strengths):
        with warnings.catch_warnings():  # A fit that stops early counts as well: validation judges it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.set_params(C=strength).fit(standardized, train.labels)
        kernel, bias = regression.coef_.T, regression.intercept_
        if len(regression.classes_) == 2:  # scikit-learn then has the logits of the second class only.
            kernel, bias = np.pad(kernel, [(0, 0), (1, 0)]), np.pad(bias, (1, 0))
        probe = LinearProbe(strength, 0.0, regression.classes_, mean, std, kernel, bias)
        top1 = float(np.mean(probe.ranking(validation.values)[:, 0] == validation.labels))
        if best is None or top1 > best.validation_top1:
            best = probe._replace(validation_top1=top1)
    assert best is not None
    return best
