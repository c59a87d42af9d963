import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import mixing
from resnet_jax.errors import UserError

BATCH = 6
LABELS = np.eye(BATCH, dtype=np.float32)
PARTNERS = [1, 0, 3, 2, 5, 4]
mixup = jax.jit(mixing.mixup)
cutmix = jax.jit(mixing.cutmix)
mixup_or_cutmix = jax.jit(mixing.mixup_or_cutmix, static_argnums=(3, 4))


def keys(n=40):
    return jax.random.split(jax.random.key(0), n)


def plain_images(height=10, width=14):
    """Return uint8 images of a constant value, 40 times their index, so that each pixel identifies its image."""
    return np.broadcast_to(40 * np.arange(BATCH, dtype=np.uint8)[:, None, None, None], (BATCH, height, width, 3))


def assert_pairs(labels):
    """Check that each row mixes its own label and that of its partner. The weights sum to 1 and are those of all rows.

    Returns:
      The weight of the own label.
    """
    weight = labels[0, 0]
    np.testing.assert_allclose(labels, weight * LABELS + (1 - weight) * LABELS[PARTNERS], atol=1e-6)
    return weight


def test_mixup_averages_neighbors_and_their_labels():
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 4, 5, 3)).astype(np.uint8)
    weights = []
    for key in keys(5):
        mixed, labels = mixup(key, images, LABELS, 1.0)
        assert mixed.dtype == labels.dtype == jnp.float32
        weights.append(assert_pairs(np.asarray(labels)))
        expected = weights[-1] * images + (1 - weights[-1]) * images[PARTNERS].astype(np.float64)
        np.testing.assert_allclose(mixed, expected, atol=1e-3)
    assert len(set(weights)) == 5


def test_mixup_weights_come_from_the_beta_distribution():
    images = np.zeros((2, 1, 1, 1), np.float32)
    draw = jax.jit(jax.vmap(lambda key, alpha: mixing.mixup(key, images, LABELS[:2], alpha)[1][0, 0], (0, None)))
    for alpha in (0.2, 1.0, 4.0):
        weights = np.asarray(draw(keys(20_000), alpha))
        assert abs(weights.mean() - 0.5) < 0.02
        assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_cutmix_labels_are_weighted_by_area():
    images = plain_images()
    sizes = set()
    for key in keys():
        mixed, labels = (np.asarray(array) for array in cutmix(key, images, LABELS, 1.0))
        assert mixed.dtype == np.uint8
        weight = assert_pairs(labels)
        own = mixed == images
        np.testing.assert_array_equal(mixed, np.where(own, images, images[PARTNERS]))
        np.testing.assert_allclose(own.mean((1, 2, 3)), weight, atol=1e-6)
        assert (own == own[:1]).all()  # One box for the whole batch.
        pasted = ~own[0, ..., 0]
        assert pasted.sum() == pasted.any(0).sum() * pasted.any(1).sum()  # The pasted pixels form a box.
        sizes.add(pasted.sum())
    assert len(sizes) > 15


def test_cutmix_boxes_reach_every_position_and_are_cut_off_at_the_border():
    images = np.zeros((2, 20, 20, 1), np.uint8)
    images[1] = 1
    pasted = jax.jit(jax.vmap(lambda key: mixing.cutmix(key, images, LABELS[:2], 1.0)[0][0, ..., 0]))(keys(4000))
    frequency = np.asarray(pasted).mean(0)
    assert frequency[10, 10] > 1.5 * frequency[0, 0] > 0
    np.testing.assert_allclose(frequency, frequency[::-1, ::-1], atol=0.04)
    assert frequency.mean() < 0.48  # The average box has half of the area, and some of it lies outside.


def test_mixup_and_cutmix_alternate_at_random():
    images = plain_images()
    mixed = [np.asarray(mixup_or_cutmix(key, images, LABELS, 1.0, 1.0)[0]) for key in keys(200)]
    pasted = sum(bool(np.isin(image, images).all()) for image in mixed)
    assert all(image.dtype == np.float32 for image in mixed)
    assert 75 < pasted < 125  # 100 expected, with a standard deviation of 7.


@pytest.mark.parametrize("alphas", [(1.0, 0.0), (0.0, 1.0)])
def test_disabling_mixup_or_cutmix_does_not_change_what_the_other_draws(alphas):
    images, as_with_both = plain_images(), 0
    for key in keys(20):
        mixed, labels = mixup_or_cutmix(key, images, LABELS, *alphas)
        assert mixed.dtype == (jnp.float32 if alphas[0] else jnp.uint8)
        assert_pairs(np.asarray(labels))
        as_with_both += np.array_equal(mixed, mixup_or_cutmix(key, images, LABELS, 1.0, 1.0)[0])
    assert 4 <= as_with_both <= 16  # 10 expected, with a standard deviation of 2.2.


def test_mixed_soft_labels_stay_distributions():
    soft = np.random.default_rng(0).dirichlet(np.ones(BATCH), BATCH).astype(np.float32)
    for mix in (mixup, cutmix):
        _, labels = mix(jax.random.key(1), plain_images(), soft, 1.0)
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)
        assert (np.asarray(labels) >= 0).all()


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_odd_batch_is_rejected(mix):
    with pytest.raises(UserError, match=r"batch_size \(5\) is odd"):
        mix(jax.random.key(0), plain_images()[:5], LABELS[:5], 1.0)
