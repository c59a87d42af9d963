import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import trivial_augment


@pytest.fixture
def drawn(monkeypatch):
    """Return the operations and strengths that are drawn for 4,000 images."""

    def record(images, which, strength, ranges, fill):
        assert ranges == trivial_augment.RANGES
        return jnp.stack([which.astype(jnp.float32), strength], axis=-1)

    monkeypatch.setattr(trivial_augment, "apply_operations", record)
    return np.asarray(trivial_augment.trivial_augment(jax.random.key(0), jnp.zeros((4000, 1, 1, 1)))).T


def test_operations_levels_and_signs_are_drawn_evenly_and_independently(drawn):
    operations, strengths = drawn
    counts = np.bincount(operations.astype(int), minlength=14)
    assert counts.shape == (14,) and counts.min() > 220 and counts.max() < 350  # 286 each expected, with a std of 16.
    levels = np.round(30 * np.abs(strengths)).astype(int)
    np.testing.assert_allclose(np.abs(strengths), levels / 30, rtol=1e-6)
    counts = np.bincount(levels, minlength=31)
    assert counts.shape == (31,) and counts.min() > 85 and counts.max() < 175  # 129 each expected, with a std of 11.
    assert 0.46 < (strengths[levels > 0] > 0).mean() < 0.54
    assert 0.44 < (strengths > 0)[operations < 7].mean() < 0.56


def test_images_are_changed_one_by_one(smooth):
    images = np.repeat(smooth[None, ..., :1], 32, 0)
    changed = np.asarray(jax.jit(trivial_augment.trivial_augment)(jax.random.key(0), images))
    assert (changed.dtype, changed.shape) == (np.uint8, images.shape)
    assert len(np.unique(changed.reshape(32, -1), axis=0)) > 20
