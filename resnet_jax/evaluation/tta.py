"""How often a network looks at a picture that is scored: once, or with test-time augmentation.

A figure with such augmentation is another one than that of a single view, and is told apart by its name.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

# From float32 pictures [batch, height, width, channels] to others, each of which is seen besides the first.
AUGMENTATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"flip": lambda images: images[:, :, ::-1]}

See = Callable[[dict, jax.Array], jax.Array]


def make_see(model: nn.Module, tta: str | None = None) -> See:
    """A function from variables and normalised pictures to logits, float32 [batch, classes].

    Args:
      model: the network.
      tta: "flip" has it look at the mirrored picture as well; the logits are those of the mean of both probabilities.
    """

    def look(variables: dict, images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    def look_twice(variables: dict, images: jax.Array) -> jax.Array:
        once, again = look(variables, images), look(variables, AUGMENTATIONS[tta](images))
        # Of the sum of the probabilities, which as logits is the same as their mean.
        return jnp.logaddexp(jax.nn.log_softmax(once), jax.nn.log_softmax(again))

    return look if tta is None else look_twice
