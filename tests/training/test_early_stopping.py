import math

import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.training import early_stopping
from resnet_jax.training.early_stopping import EarlyStopping


def stops_after(values, saved_at=None, **changes):
    """Return after how many evaluations a run stops; None if it does not. Save and restore the state at `saved_at`."""
    config = settings.default().early_stopping
    config.update(changes)
    stopping = EarlyStopping(config)
    for number, value in enumerate(values, start=1):
        stopping.update({"top1": value, "loss": value})
        if number == saved_at:
            stopping = EarlyStopping(config, stopping.state_to_save())
        if stopping.is_due():
            return number
    return None


@pytest.mark.parametrize(
    ("values", "changes", "expected"),
    [
        ([0.5, 0.6, 0.6, 0.6], {"patience": 2}, 4),
        ([0.5, 0.6, 0.55, 0.61, 0.6, 0.59], {"patience": 2}, 6),
        ([0.5, 0.4, 0.3], {"patience": 1}, 2),
        ([0.5, 0.4, 0.3, 0.3], {"patience": 1, "metric": "loss"}, 4),
        ([0.5, 0.51, 0.52, 0.53], {"patience": 2, "min_delta": 0.05}, 3),
        ([0.5, 0.52, 0.54, 0.56], {"patience": 3, "min_delta": 0.05}, None),  # 0.56 improves on 0.5, the best so far.
        ([0.5] * 50, {"patience": None}, None),
        ([math.nan, 0.5, 0.4, 0.3], {"patience": 2, "metric": "loss"}, None),
        ([0.5, math.nan, -math.inf, 0.6], {"patience": 2, "metric": "loss"}, 3),
    ],
)
def test_run_stops_after_evaluations_without_improvement(values, changes, expected):
    assert stops_after(values, **changes) == expected
    for saved_at in range(1, len(values)):
        assert stops_after(values, saved_at, **changes) == expected


def test_run_without_validation_is_rejected():
    config = settings.default()
    early_stopping.check(config)
    config.early_stopping.patience, config.dataset.validation_split = 3, "none"
    with pytest.raises(UserError, match=r"early_stopping\.patience needs a validation split"):
        early_stopping.check(config)
