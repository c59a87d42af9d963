"""Early stopping: end a run when its validation metric has not improved for several evaluations."""

import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from resnet_jax.data import splits
from resnet_jax.errors import UserError
from resnet_jax.terminal import METRIC_TITLES


class EarlyStopping:
    """Counts the evaluations since the validation metric last improved by more than `min_delta`.

    Args:
      settings: the `early_stopping` section of the config; without `patience`, the run never stops early.
      saved: what `state_to_save` returned when the checkpoint was saved; {} for a new run.

    Example:
      >>> from resnet_jax.config import default
      >>> config = default()
      >>> config.early_stopping.patience = 2
      >>> stopping = EarlyStopping(config.early_stopping)
      >>> for top1 in (0.5, 0.7, 0.6, 0.7):
      ...     stopping.update({"top1": top1, "loss": 1.0})
      >>> stopping.is_due()
      True
    """

    def __init__(self, settings: ConfigDict, saved: Mapping[str, float] | None = None):
        self._settings = settings
        self._best: float | None = (saved or {}).get("best")
        self._waited = int((saved or {}).get("waited", 0))

    def update(self, metrics: Mapping[str, float]) -> None:
        """Record the metrics of an evaluation. A value that is not finite is not an improvement."""
        value = metrics[self._settings.metric]
        if self._best is None:
            gain = math.inf
        elif self._settings.metric == "loss":
            gain = self._best - value
        else:
            gain = value - self._best
        if math.isfinite(value) and gain > self._settings.min_delta:
            self._best, self._waited = value, 0
        else:
            self._waited += 1

    def is_due(self) -> bool:
        """Return whether the run should end now."""
        return self._settings.patience is not None and self._waited >= self._settings.patience

    def state_to_save(self) -> dict[str, float | None]:
        """Return what a resumed run needs, as JSON values."""
        return {"best": self._best, "waited": self._waited}


def check(config: ConfigDict) -> None:
    """Raise `UserError` if early stopping is not possible with these settings."""
    if config.early_stopping.patience is not None and config.dataset.validation_split == splits.NO_SPLIT:
        raise UserError(
            "early_stopping.patience needs a validation split, and dataset.validation_split is 'none'. Leave patience "
            "unset, or choose a validation split."
        )


def reason(config: ConfigDict) -> str:
    """Return why a run stops early, such as "validation top-1 has not improved for 5 evaluations"."""
    settings = config.early_stopping
    title = METRIC_TITLES.get(settings.metric, settings.metric)
    return f"validation {title} has not improved for {settings.patience} evaluations"
