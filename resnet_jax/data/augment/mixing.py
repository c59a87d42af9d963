"""Mixing pictures of a batch two by two, and their labels in the same proportion.

Each picture is mixed with its neighbour: the first with the second, the third with the fourth, and so on. Examples come
in random order anyway, so neighbours are as random a pair as any; and where a batch is split over devices, neighbours
lie on the same device (if it holds an even number of them), so that mixing needs no communication, as a permutation of
the batch would.
"""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment import boxes
from resnet_jax.errors import UserError


def mixup(key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Averages each picture with its neighbour, and their labels too (Zhang et al. 2017, "mixup").

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255], batch even.
      labels: float32 [batch, classes], each row a distribution over the classes.
      alpha: the share of a picture in itself comes from Beta(alpha, alpha), one share for the whole batch.

    Returns:
      Images as float32, in [0, 255] as before and not rounded, and labels as they came.

    Raises:
      UserError: if the batch is odd.
    """
    share = jax.random.beta(key, alpha, alpha)
    images = images.astype(jnp.float32)
    return _average(images, _neighbours(images), share), _average(labels, _neighbours(labels), share)


def cutmix(key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Pastes a rectangle of its neighbour into each picture, and mixes the labels by area (Yun et al. 2019, "CutMix").

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255], batch even.
      labels: float32 [batch, classes], each row a distribution over the classes.
      alpha: the share of a picture that stays comes from Beta(alpha, alpha), one rectangle for the whole batch. It has
        the picture's aspect ratio, and its centre is uniform over the picture; where it reaches over the border, it is
        cut off, and labels go by what is left of it.

    Returns:
      Images and labels as they came.

    Raises:
      UserError: if the batch is odd.
    """
    share_key, centre_key = jax.random.split(key)
    size = jnp.array(images.shape[1:3], jnp.float32)
    box_size = size * jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
    corner = jax.random.uniform(centre_key, (2,)) * size - box_size / 2
    pasted = boxes.mask(jnp.concatenate([corner, box_size])[None], *images.shape[1:3])
    share = 1 - jnp.mean(pasted, dtype=jnp.float32)
    return jnp.where(pasted, _neighbours(images), images), _average(labels, _neighbours(labels), share)


def mixup_or_cutmix(
    key: jax.Array, images: jax.Array, labels: jax.Array, mixup_alpha: float, cutmix_alpha: float
) -> tuple[jax.Array, jax.Array]:
    """`mixup` or `cutmix`; with both, each batch gets one of the two with probability 1/2.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255], batch even.
      labels: float32 [batch, classes], each row a distribution over the classes.
      mixup_alpha, cutmix_alpha: of the beta distributions; 0 is off, and at least one is on.

    Returns:
      Images, as float32 if there may be mixup, and labels as they came.

    Raises:
      UserError: if the batch is odd.
    """
    choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
    if not cutmix_alpha:
        return mixup(mixup_key, images, labels, mixup_alpha)
    if not mixup_alpha:
        return cutmix(cutmix_key, images, labels, cutmix_alpha)
    return jax.lax.cond(
        jax.random.bernoulli(choice_key),
        lambda images: mixup(mixup_key, images, labels, mixup_alpha),
        lambda images: cutmix(cutmix_key, images, labels, cutmix_alpha),
        images.astype(jnp.float32),
    )


def _neighbours(batch: jax.Array) -> jax.Array:
    """The batch [n, ...] with 0 and 1, 2 and 3, and so on in each other's place."""
    if len(batch) % 2:
        raise UserError(f"mixup and cutmix mix pictures two by two: batch_size must be even, not {len(batch)}")
    return batch.reshape(-1, 2, *batch.shape[1:])[:, ::-1].reshape(batch.shape)


def _average(own: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    return share * own + (1 - share) * other
