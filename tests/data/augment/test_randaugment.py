import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import randaugment


@pytest.fixture
def drawn(monkeypatch):
    """Return a function of randaugment's arguments that returns the operations and strengths drawn, [num_ops, 4000]."""

    def record(images, which, strength, ranges, fill):
        """Record the draws in the images: move all lines down by one and write the new draw on top."""
        line = jnp.stack([which.astype(jnp.float32), strength], axis=-1)[:, None, :, None]
        return jnp.concatenate([line, images[:, :-1]], axis=1)

    def draw(num_ops, *magnitude):
        empty = jnp.full((4000, num_ops, 2, 1), jnp.nan)
        records = jax.jit(randaugment.randaugment, static_argnums=2)(jax.random.key(0), empty, num_ops, *magnitude)
        return np.moveaxis(np.asarray(records)[..., 0], (0, 2), (2, 0))

    monkeypatch.setattr(randaugment, "apply_operations", record)
    return draw


def test_randaugment_draws_operations_and_signs_evenly(drawn):
    operations, strengths = drawn(2, 9)
    for which in operations:
        counts = np.bincount(which.astype(int), minlength=14)
        assert counts.sum() == 4000
        assert counts.min() > 220  # 286 each expected, with a standard deviation of 16.
        assert counts.max() < 350
    np.testing.assert_allclose(np.abs(strengths), 0.9, rtol=1e-6)
    assert 1850 < (strengths > 0).sum(axis=1).min() <= (strengths > 0).sum(axis=1).max() < 2150
    # The second operation does not depend on the first, nor the sign on the operation.
    assert 220 < (operations[0] == operations[1]).sum() < 350
    assert 0.44 < (strengths > 0)[operations < 7].mean() < 0.56


def test_randaugment_magnitude_varies_by_its_std_within_its_range(drawn):
    magnitudes = 10 * np.abs(drawn(1, 5.0, 0.5)[1])
    assert abs(magnitudes.mean() - 5) < 0.05
    assert abs(magnitudes.std() - 0.5) < 0.05
    clipped = 10 * np.abs(drawn(1, 9.0, 1.0)[1])
    assert clipped.max() <= 10
    assert 0.12 < (clipped > 10 - 1e-5).mean() < 0.20  # 16 % of a normal distribution lie above one standard deviation.


def test_randaugment_draws_separately_for_each_grayscale_image(smooth):
    images = np.repeat(smooth[None, ..., :1], 32, 0)
    changed = np.asarray(jax.jit(randaugment.randaugment, static_argnums=(2, 3))(jax.random.key(0), images, 2, 9))
    assert changed.dtype == np.uint8
    assert len(np.unique(changed.reshape(32, -1), axis=0)) > 24
