"""The kinds of residual blocks: where norms and activations stand."""

import flax.linen as nn
import jax

from resnet_jax.models.layers import Bias, Layers, he_normal_fan_out
from resnet_jax.models.residual import ResidualBlock


class PostActivationBlock(ResidualBlock):
    """Convolution, norm, activation; the last activation follows the sum (He et al. 2015, figure 2)."""

    normalizes_projection = True

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        y = x
        for number in range(1, len(self.convolutions) + 1):
            last = number == len(self.convolutions)
            starts_at_zero = last and self.zero_init_residual
            y = self.convolve(y, number)
            y = self.layers.norm(
                y, scale_init=nn.initializers.zeros if starts_at_zero else nn.initializers.ones, name=f"norm{number}"
            )
            y = y if last else nn.relu(y)
        return nn.relu(self.end(y, drop_rate) + self.skip(x, activated=x))


class PreActivationBlock(ResidualBlock):
    """Norm, activation, convolution; nothing follows the sum (He et al. 2016, "Identity Mappings", figure 1b).

    Where the shape changes, the shortcut starts from the activated input, as in their code. As in timm, the identity of
    the first block does not; their appendix activates what leaves the stem.
    """

    activates_input = True

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        activated = y = nn.relu(self.layers.norm(x, name="norm1"))
        for number in range(1, len(self.convolutions) + 1):
            last = number == len(self.convolutions)
            if number > 1:
                y = nn.relu(self.layers.norm(y, name=f"norm{number}"))
            starts_at_zero = last and self.zero_init_residual
            y = self.convolve(y, number, nn.initializers.zeros if starts_at_zero else he_normal_fan_out)
        return self.end(y, drop_rate) + self.skip(x, activated)

    @staticmethod
    def finish(x: jax.Array, layers: Layers) -> jax.Array:
        return nn.relu(layers.norm(x, name="final_norm"))


class FixupBlock(ResidualBlock):
    """No norm: scalar biases, a scalar factor, and small initial kernels (Zhang et al. 2019, "Fixup Initialization").

    Section 3: the last convolution starts at zero, the others are scaled by `num_blocks` to the power -1 / (2m - 2),
    where m, at least 2, is how many a block has; a bias stands before each convolution and each activation.
    """

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        count = len(self.convolutions)
        variance = 2.0 * self.num_blocks ** (-2 / (2 * count - 2))
        small = nn.initializers.variance_scaling(variance, "fan_out", "normal")
        biased = y = Bias((), name="bias1a")(x)
        for number in range(1, count + 1):
            last = number == count
            if number > 1:
                y = Bias((), name=f"bias{number}a")(y)
            y = self.convolve(y, number, nn.initializers.zeros if last else small)
            if last:
                y = y * self.param("scale", nn.initializers.ones, ()).astype(y.dtype)
            y = Bias((), name=f"bias{number}b")(y)
            y = y if last else nn.relu(y)
        return nn.relu(self.end(y, drop_rate) + self.skip(x, activated=biased))

    @staticmethod
    def finish(x: jax.Array, layers: Layers) -> jax.Array:
        return layers.norm(x, name="final_norm")
