import numpy as np
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.diagnostics.lr_range_test import RangeTest, format_range_test, range_test, run_range_test, smooth
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter

RATES = np.geomspace(1e-4, 1e3, 400)


def ignore(*_):
    pass


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
def test_gradient_descent_on_a_noisy_quadratic_explodes_at_two_over_its_curvature(curvature):
    x, random = 1.0, np.random.default_rng(0)

    def take_step(step):
        nonlocal x
        loss = curvature * x**2 / 2
        x -= RATES[step] * curvature * (x + 0.01 * random.normal())
        return loss

    test = run_range_test(take_step, RATES, ignore)
    assert test.exploded
    assert 2 / curvature < test.learning_rates[-1] < 4 / curvature
    assert test.suggested[1] < 2 / curvature


def test_suggestion_lies_between_a_tenth_of_the_rate_with_the_lowest_loss_and_this_rate():
    rates = np.geomspace(1e-3, 1.0, 7)
    losses = np.array([2.0, 1.9, 1.0, 0.8, 0.6, 0.5, 3.0])
    test = RangeTest(rates, losses, losses, exploded=True)
    assert test.lowest == pytest.approx(rates[5])
    assert test.steepest == pytest.approx(rates[2])  # Around it, the loss falls from 1.9 to 0.8.
    assert test.suggested == pytest.approx((rates[5] / 10, rates[5]))
    text = format_range_test(test)
    assert text.splitlines()[0] == "Suggested learning rate: 0.032 to 0.32."
    assert "  0.32: where the loss is lowest; as the peak of a schedule that falls to zero" in text
    assert "  0.032: a tenth of it; as a constant rate" in text
    assert "The loss falls fastest at 0.01." in text
    assert text.endswith("The loss exploded at a learning rate of 1.")


def test_recovery_from_a_rise_is_not_taken_for_descent():
    """After the rise to 2.6, the loss falls faster, and lower, than before."""
    rates = np.geomspace(1e-4, 10.0, 11)
    losses = np.array([3.0, 2.9, 2.5, 2.1, 1.9, 1.8, 2.6, 1.5, 1.0, 0.9, 4.0])
    test = RangeTest(rates, losses, losses, exploded=False)
    assert test.lowest == pytest.approx(rates[5])
    assert test.steepest == pytest.approx(rates[2])


def test_small_rise_does_not_end_the_descent():
    rates = np.geomspace(1e-4, 1.0, 9)
    losses = np.array([3.0, 2.99, 3.01, 2.6, 2.0, 2.1, 1.2, 1.1, 9.0])
    assert RangeTest(rates, losses, losses, exploded=True).lowest == pytest.approx(rates[7])


def test_smoothing_is_a_mean_over_a_window_that_ends_are_cut_off_from():
    np.testing.assert_allclose(smooth(np.array([1.0, 2.0, 6.0, 2.0, 0.0]), 3), [1.5, 3.0, 10 / 3, 8 / 3, 1.0])
    np.testing.assert_array_equal(smooth(np.arange(4.0), 1), np.arange(4.0))


def test_range_test_ends_at_a_loss_that_is_not_finite():
    losses = [1.0] * 100 + [np.nan]
    test = run_range_test(lambda step: losses[step], RATES, ignore)
    assert test.exploded
    assert len(test.losses) == len(test.learning_rates) == 100


def test_range_test_that_explodes_at_once_is_refused():
    with pytest.raises(UserError, match=r"exploded after 1 steps, at a learning rate of 1\.0e-04\. Lower --min_rate"):
        run_range_test(lambda step: 1.0 if step == 0 else np.inf, RATES, ignore)


def test_range_test_that_reaches_the_last_rate_says_so():
    test = run_range_test(lambda step: 2.0 - step / 400, RATES, ignore)
    assert not test.exploded
    assert format_range_test(test).endswith(
        "The loss did not explode up to 1e+03. A higher --max_rate would show more."
    )


@pytest.mark.parametrize("name", ["sgd", pytest.param("muon", marks=pytest.mark.slow)])
def test_range_test_of_a_recipe_depends_on_nothing_but_its_seed(tiny_config, name):
    tiny_config.optimizer.name = name

    def losses(seed):
        tiny_config.seed = seed
        with Reporter(active=False, max_unreadable=0) as reporter:
            return range_test(tiny_config, open_sources("digits"), reporter, 1e-4, 10.0, 40).losses

    first = losses(0)
    np.testing.assert_array_equal(first, losses(0))
    assert first[:20].min() < first[0]
    assert not np.array_equal(first[:20], losses(1)[:20])


def test_range_test_uses_its_own_rates_from_the_first_step_on(tiny_config):
    """With vanishing rates, the parameters stay as they are, so equal batches have equal losses."""
    tiny_config.dataset.train_split = "train[:64]"
    tiny_config.dataset.validation_split = "none"
    tiny_config.augment.crop_padding = 0
    tiny_config.optimizer.weight_decay = 0.0
    with Reporter(active=False, max_unreadable=0) as reporter:
        test = range_test(tiny_config, open_sources("digits"), reporter, 1e-12, 1e-11, 20)
    np.testing.assert_allclose(test.losses, test.losses[0], rtol=1e-5)
    assert not test.exploded
