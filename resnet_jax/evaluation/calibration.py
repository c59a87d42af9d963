"""Temperature scaling: confidences that agree better with the accuracy (Guo et al. 2017).

One number, the temperature, divides all logits. It is fitted on the validation split, by minimizing the cross-entropy
there. The order of the classes does not change, so neither do the predictions.
"""

import dataclasses

import numpy as np

from resnet_jax.data import splits
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import score_own_validation
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run
from resnet_jax.workdir.workdir import WorkDir

SMALLEST, LARGEST = 0.05, 20.0  # bounds of the temperature


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The calibration of a run, as `calibration.json` holds it.

    Attributes:
      temperature: the divisor of the logits; above 1, the model was overconfident.
      checkpoint_step: the checkpoint that was calibrated.
      examples: the number of validation examples.
      loss_before, loss_after: their mean cross-entropy in nats, without and with the temperature.
    """

    temperature: float
    checkpoint_step: int
    examples: int
    loss_before: float
    loss_after: float


def fit_temperature(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature in [1/20, 20] that minimizes the cross-entropy (Guo et al. 2017, section 4.2).

    If none of them lowers it, the temperature is 1.

    Args:
      log_probabilities: float [n, classes], or logits.
      labels: int [n].

    Example:
      >>> overconfident = np.log([[0.99, 0.01], [0.99, 0.01], [0.99, 0.01], [0.01, 0.99]])
      >>> round(fit_temperature(overconfident, np.array([0, 0, 1, 1])), 2)  # Three of four are right: 75 % each.
      4.18
    """
    from scipy import optimize  # Imported here, because importing it takes longer than importing JAX.

    fitted = optimize.minimize_scalar(
        lambda log_temperature: mean_loss(log_probabilities, labels, np.exp(log_temperature)),
        bounds=(np.log(SMALLEST), np.log(LARGEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    temperature = float(np.exp(fitted.x))
    is_better = mean_loss(log_probabilities, labels, temperature) < mean_loss(log_probabilities, labels, 1.0)
    return temperature if is_better else 1.0


def mean_loss(log_probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Return the mean cross-entropy in nats if the logits are divided by the temperature."""
    from scipy import special

    scaled = special.log_softmax(np.asarray(log_probabilities, np.float64) / temperature, axis=-1)
    return float(-scaled[np.arange(len(labels)), labels].mean())


def calibrate_run(workdir: str, reporter: Reporter, data_dir: str | None = None) -> Calibration:
    """Fit the temperature of a run on the examples on which it was validated, and store it in the run directory.

    Args:
      workdir: the run directory.
      reporter: shows the progress, and counts the images that cannot be read.
      data_dir: where the data is; None: where it was in training.

    Raises:
      UserError: if the run has no validation examples, or if its data cannot be opened.
    """
    trained = load_run(workdir, calibrated=False)
    trained.require_head()
    if trained.is_multi_label:
        raise UserError(
            f"{workdir} cannot be calibrated, because its images have any number of labels. Leave out --calibrate."
        )
    if trained.config.dataset.validation_split == splits.NO_SPLIT:
        raise UserError(f"{workdir} cannot be calibrated, because it has no validation split. Choose another run.")
    metrics, _, _ = score_own_validation(trained, reporter, data_dir)
    temperature = fit_temperature(metrics.log_probabilities, metrics.label)
    losses = (mean_loss(metrics.log_probabilities, metrics.label, value) for value in (1.0, temperature))
    assert trained.step is not None
    calibration = Calibration(temperature, trained.step, len(metrics.label), *losses)
    WorkDir(workdir).write_calibration(dataclasses.asdict(calibration))
    return calibration


def describe(calibration: Calibration) -> str:
    """Return a sentence about a calibration."""
    change = f"from {calibration.loss_before:.4f} to {calibration.loss_after:.4f}"
    return (
        f"temperature {calibration.temperature:.4g}, which changes the validation loss {change} "
        f"({calibration.examples:,} examples). All commands apply it from now on."
    )
