import numpy as np
import pytest
from scipy import stats

from resnet_jax.studies.statistics import spread


@pytest.mark.parametrize("values", [[0.9, 0.91, 0.95, 0.89, 0.9], [1.0, 2.0]])
def test_spread_agrees_with_numpy_and_scipy(values):
    result = spread(values)
    assert result.mean == pytest.approx(np.mean(values))
    assert result.std == pytest.approx(stats.tstd(values))
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))


def test_interval_contains_the_true_mean_in_95_of_100_samples():
    samples = np.random.default_rng(0).normal(5.0, 2.0, size=(4000, 5))
    contained = [result.low <= 5.0 <= result.high for result in map(spread, samples)]
    assert np.mean(contained) == pytest.approx(0.95, abs=0.01)


def test_single_value_has_no_interval():
    result = spread([0.5])
    assert (result.values, result.mean, result.std, result.low, result.high) == ((0.5,), 0.5, None, None, None)


def test_interval_agrees_with_statsmodels():
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    values = [0.91, 0.94, 0.92, 0.95]
    low, high = weightstats.DescrStatsW(values).tconfint_mean()
    assert (spread(values).low, spread(values).high) == pytest.approx((low, high))
