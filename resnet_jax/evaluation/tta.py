"""Test-time augmentation (TTA): a model sees each image in several versions, and its predictions are averaged.

Metrics with test-time augmentation are not comparable to metrics of a single view. They are therefore reported
separately, under the name of the augmentation.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

# Each function maps float32 images [batch, height, width, channels] to a second version of these images.
AUGMENTATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"flip": lambda images: images[:, :, ::-1]}

ApplyModel = Callable[[dict, jax.Array], jax.Array]


def make_apply(model: nn.Module, tta: str | None = None) -> ApplyModel:
    """Return a function from variables and normalized images to logits, float32 [batch, classes].

    Args:
      model: the model.
      tta: "flip" also applies the model to the mirrored image, and returns logits whose softmax is the mean of the two
        predictions; None: a single view.
    """

    def apply_once(variables: dict, images: jax.Array) -> jax.Array:
        # Linen's type includes the pair that `apply` returns if a collection is mutable. Here no collection is.
        return model.apply(variables, images, train=False)  # type: ignore[return-value]

    if tta is None:
        return apply_once
    augment = AUGMENTATIONS[tta]

    def apply_twice(variables: dict, images: jax.Array) -> jax.Array:
        logits = apply_once(variables, images)
        augmented_logits = apply_once(variables, augment(images))
        # The log of the sum differs from the log of the mean only by a constant, which softmax ignores.
        return jnp.logaddexp(jax.nn.log_softmax(logits), jax.nn.log_softmax(augmented_logits))

    return apply_twice
