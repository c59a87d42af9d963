import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.errors import UserError
from resnet_jax.federated import privacy


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_clipping_bounds_the_norm_and_keeps_the_direction(scale):
    update = {"a": scale * jnp.array([1.0, 2.0]), "b": scale * jnp.array([[2.0]])}
    clipped = privacy.clip(update, norm=2.0)
    assert float(optax.tree.norm(clipped)) == pytest.approx(min(3 * scale, 2.0))
    np.testing.assert_allclose(clipped["a"] / clipped["b"][0, 0], [0.5, 1.0], rtol=1e-6)
    assert privacy.clip({"a": jnp.zeros(2)}, norm=2.0)["a"].tolist() == [0, 0]


def test_noise_has_the_requested_std_and_differs_by_array():
    noisy = privacy.add_noise({"a": jnp.zeros(20_000), "b": jnp.zeros(20_000)}, 0.3, jax.random.key(0))
    assert float(noisy["a"].std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(noisy["a"].mean())) < 0.01
    assert abs(np.corrcoef(noisy["a"], noisy["b"])[0, 1]) < 0.03


def test_epsilon_of_a_full_round_is_near_that_of_the_gaussian_mechanism():
    """By Balle & Wang 2018, noise of 3.73 times the sensitivity gives epsilon = 1 at delta = 1e-5."""
    pytest.importorskip("dp_accounting")
    assert 1.0 < privacy.epsilon(3.73, share=1.0, rounds=1, delta=1e-5) < 1.2


def test_epsilon_is_a_little_above_the_tight_bound():
    """Composing privacy loss distributions (Koskela et al. 2020) is tighter than Renyi differential privacy."""
    dp_accounting = pytest.importorskip("dp_accounting")
    accountant = pytest.importorskip("dp_accounting.pld").PLDAccountant()
    event = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.0))
    tight = accountant.compose(event, 100).get_epsilon(1e-5)
    assert tight < privacy.epsilon(1.0, share=0.1, rounds=100, delta=1e-5) < 1.25 * tight


def test_epsilon_grows_with_the_rounds_and_shrinks_with_share_and_noise():
    pytest.importorskip("dp_accounting")
    reference = privacy.epsilon(1.0, share=0.1, rounds=100, delta=1e-5)
    assert privacy.epsilon(1.0, share=0.1, rounds=200, delta=1e-5) > reference
    assert privacy.epsilon(1.0, share=0.05, rounds=100, delta=1e-5) < reference
    assert privacy.epsilon(2.0, share=0.1, rounds=100, delta=1e-5) < reference


def test_missing_package_is_named(hide_package):
    hide_package("dp_accounting")
    with pytest.raises(UserError, match=r'needs dp-accounting, .* pip install "\.\[privacy\]"'):
        privacy.epsilon(1.0, share=1.0, rounds=1, delta=1e-5)
