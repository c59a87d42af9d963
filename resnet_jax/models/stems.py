"""What comes before the first block, by name."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.models.layers import Layers, blur_pool


def imagenet(x: jax.Array, width: int, layers: Layers, activates: bool) -> jax.Array:
    """7x7 with stride 2, then max-pool with stride 2 (He et al. 2015, table 1)."""
    x = layers.conv(x, width, 7, 2, name="stem_conv")
    return max_pool(activate(x, layers, "stem_norm") if activates else x, layers)


def cifar(x: jax.Array, width: int, layers: Layers, activates: bool) -> jax.Array:
    """3x3 with stride 1 (He et al. 2015, section 4.2)."""
    x = layers.conv(x, width, 3, name="stem_conv")
    return activate(x, layers, "stem_norm") if activates else x


def deep(x: jax.Array, width: int, layers: Layers, activates: bool) -> jax.Array:
    """Three 3x3, the first with stride 2, then max-pool with stride 2 (He et al. 2018, "Bag of Tricks", figure 2b)."""
    x = activate(layers.conv(x, width // 2, 3, 2, name="stem_conv1"), layers, "stem_norm1")
    x = activate(layers.conv(x, width // 2, 3, name="stem_conv2"), layers, "stem_norm2")
    x = layers.conv(x, width, 3, name="stem_conv3")
    return max_pool(activate(x, layers, "stem_norm3") if activates else x, layers)


def bit(x: jax.Array, width: int, layers: Layers, activates: bool) -> jax.Array:
    """As "imagenet", but the max-pool sees a border of zeros, as in the code of BiT (Kolesnikov et al. 2019)."""
    x = layers.conv(x, width, 7, 2, name="stem_conv")
    return max_pool(activate(x, layers, "stem_norm") if activates else x, layers, zeros=True)


def activate(x: jax.Array, layers: Layers, name: str) -> jax.Array:
    return nn.relu(layers.norm(x, name=name))


def max_pool(x: jax.Array, layers: Layers, zeros: bool = False) -> jax.Array:
    """3x3 with stride 2, whose border never counts or is `zeros`; or 2x2 with stride 1, and a blur that strides."""
    if layers.blur_pool:
        return blur_pool(nn.max_pool(x, (2, 2)), 2)
    if zeros:
        return nn.max_pool(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), (3, 3), (2, 2))
    return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])


# From images, the width of the stem, the layers, and whether it is to end activated, to the input of the first block.
STEMS: dict[str, Callable[[jax.Array, int, Layers, bool], jax.Array]] = {
    "imagenet": imagenet,
    "cifar": cifar,
    "deep": deep,
    "bit": bit,
}
