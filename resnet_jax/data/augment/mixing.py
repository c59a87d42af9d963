"""Augmentations that mix the images of a batch in pairs, and their labels in the same proportion.

Each image is mixed with its neighbor: the first with the second, the third with the fourth, and so on. Examples come
in random order anyway, so neighbors are as random a pair as any. Where a batch is split over devices, neighbors lie
on the same device (if each device holds an even number of images), so mixing needs no communication. A random
permutation of the batch would need it.
"""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment import boxes
from resnet_jax.errors import UserError


def mixup(key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Average each image with its neighbor, and its label with the neighbor's (Zhang et al. 2017, "mixup").

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255], with an even batch size.
      labels: float32 [batch, classes], each row a distribution over the classes.
      alpha: each image gets weight w and its neighbor 1 - w. The weight w is drawn from Beta(alpha, alpha), once for
        the whole batch.

    Returns:
      Images as float32, in [0, 255] and not rounded, and labels of the same shape and dtype.

    Raises:
      UserError: if the batch size is odd.
    """
    weight = jax.random.beta(key, alpha, alpha)
    images = images.astype(jnp.float32)
    return _average(images, _neighbors(images), weight), _average(labels, _neighbors(labels), weight)


def cutmix(key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Paste a box of the neighboring image into each image, and mix the labels by area (Yun et al. 2019, "CutMix").

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255], with an even batch size.
      labels: float32 [batch, classes], each row a distribution over the classes.
      alpha: the fraction of an image outside the box is drawn from Beta(alpha, alpha). All images of the batch have the
        same box. The box has the aspect ratio of the image, and its center is uniform over the image. If it extends
        beyond the border, it is cut off there, and the labels are weighted by the area that is actually pasted.

    Returns:
      Images and labels of the same shape and dtype.

    Raises:
      UserError: if the batch size is odd.
    """
    area_key, center_key = jax.random.split(key)
    size = jnp.array(images.shape[1:3], jnp.float32)
    box_size = size * jnp.sqrt(1 - jax.random.beta(area_key, alpha, alpha))
    corner = jax.random.uniform(center_key, (2,)) * size - box_size / 2
    pasted = boxes.mask(jnp.concatenate([corner, box_size])[None], *images.shape[1:3])
    weight = 1 - jnp.mean(pasted, dtype=jnp.float32)
    return jnp.where(pasted, _neighbors(images), images), _average(labels, _neighbors(labels), weight)


def mixup_or_cutmix(
    key: jax.Array, images: jax.Array, labels: jax.Array, mixup_alpha: float, cutmix_alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Apply `mixup` or `cutmix`; if both are on, each batch gets one of the two with probability 1/2.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255], with an even batch size.
      labels: float32 [batch, classes], each row a distribution over the classes.
      mixup_alpha, cutmix_alpha: parameters of the beta distributions; 0 turns the augmentation off. At least one
        of the two must be on.

    Returns:
      Images, as float32 if mixup is on, and labels of the same shape and dtype.

    Raises:
      UserError: if the batch size is odd.
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


def check_batch_size(batch_size: int) -> None:
    """Raise `UserError` if a batch cannot be divided into pairs."""
    if batch_size % 2:
        raise UserError(
            f"augment.mixup and augment.cutmix mix images in pairs, but batch_size ({batch_size}) is odd. "
            "Choose an even batch_size."
        )


def _neighbors(batch: jax.Array) -> jax.Array:
    """Swap the entries 0 and 1, 2 and 3, and so on of a batch [n, ...]."""
    check_batch_size(len(batch))
    return batch.reshape(-1, 2, *batch.shape[1:])[:, ::-1].reshape(batch.shape)


def _average(batch: jax.Array, neighbors: jax.Array, weight: jax.Array) -> jax.Array:
    return weight * batch + (1 - weight) * neighbors
