"""What all residual blocks have in common: their convolutions, their shortcut, and how a residual ends."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from resnet_jax.models.layers import Layers, SqueezeExcitation, average_pool, blur_pool, he_normal_fan_out


@dataclasses.dataclass(frozen=True)
class Convolution:
    """`kernel` x `kernel`, to `features` channels, in `groups` that do not see each other."""

    kernel: int
    features: int
    stride: int = 1
    groups: int = 1


def basic(width: int, stride: int) -> tuple[Convolution, ...]:
    """Two 3x3: ResNet-18, ResNet-34 and the CIFAR networks (He et al. 2015, figure 5, left)."""
    return Convolution(3, width, stride), Convolution(3, width)


def bottleneck(width: int, stride: int, groups: int = 1, group_width: int = 64) -> tuple[Convolution, ...]:
    """1x1 down, 3x3, 1x1 up to four times the width: ResNet-50 and deeper (He et al. 2015, figure 5, right).

    v1.5: the stride sits in the 3x3 (Goyal et al. 2017, section 5.1), which may be in `groups` (Xie et al. 2016, figure
    3c). Each of these has `group_width` channels where `width` is 64.
    """
    inner = width * group_width // 64 * groups
    return Convolution(1, inner), Convolution(3, inner, stride, groups), Convolution(1, 4 * width)


class ResidualBlock(nn.Module):
    """F(x) + shortcut(x). Kinds of blocks differ in where norms and activations stand, which `__call__` says.

    Attributes:
      layers: makes the layers.
      convolutions: of F; at most one of them has a stride, and not the last.
      shortcut: where the shape changes, "projection" (1x1 convolution, option B), "average_pool" (a mean before the
        projection takes its stride) or "pad" (zero channels, option A).
      zero_init_residual: F starts as zero (Goyal et al. 2017, section 5.1).
      squeeze_excitation: reduction of a `SqueezeExcitation` that ends F; None: none.
      residual_scale: initial value of a learned factor of F; None: none. 0 makes it SkipInit (De & Smith 2020) and
        ReZero (Bachlechner et al. 2020).
      dropout: probability of dropout before the last convolution (Zagoruyko & Komodakis 2016, section 2.4).
      num_blocks: of the whole network.
    """

    layers: Layers
    convolutions: tuple[Convolution, ...]
    shortcut: str
    zero_init_residual: bool
    squeeze_excitation: int | None
    residual_scale: float | None
    dropout: float
    num_blocks: int

    activates_input = False  # If so, what comes before the first block does not.
    normalizes_projection = False

    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        """[batch, height, width, channels] to [batch, height / stride, width / stride, the last one's features].

        In training F is dropped for a whole example with probability `drop_rate`.
        """
        raise NotImplementedError

    @staticmethod
    def finish(x: jax.Array, layers: Layers) -> jax.Array:
        """What comes between the last block and the pooling."""
        del layers
        return x

    def convolve(self, x: jax.Array, number: int, init: Initializer = he_normal_fan_out) -> jax.Array:
        """F's convolution of that number, counted from 1."""
        convolution = self.convolutions[number - 1]
        stride, before = convolution.stride, self.convolutions[number - 2].stride if number > 1 else 1
        if self.layers.blur_pool:  # In the place of a stride, before the next convolution (Zhang 2019, section 3.2).
            stride, x = 1, blur_pool(x, before) if before > 1 else x
        if number == len(self.convolutions):
            x = self.layers.dropout(x, self.dropout)
        kernel, features, groups = convolution.kernel, convolution.features, convolution.groups
        return self.layers.conv(x, features, kernel, stride, groups, init, name=f"conv{number}")

    def skip(self, x: jax.Array, activated: jax.Array) -> jax.Array:
        """The identity, or where the shape changes, option A or B (He et al. 2015, section 3.3) of the activated input.

        He et al. 2018 ("Bag of Tricks", figure 2c) pool before they project.
        """
        features, stride = self.convolutions[-1].features, max(each.stride for each in self.convolutions)
        if stride == 1 and x.shape[-1] == features:
            return x
        if stride > 1 and self.shortcut == "average_pool":
            activated, stride = average_pool(activated, stride), 1
        elif stride > 1 and self.layers.blur_pool:
            activated, stride = blur_pool(activated, stride), 1
        if self.shortcut == "pad":
            before = (features - x.shape[-1]) // 2
            after = features - x.shape[-1] - before
            return jnp.pad(activated[:, ::stride, ::stride], [(0, 0), (0, 0), (0, 0), (before, after)])
        projected = self.layers.conv(activated, features, 1, stride, name="shortcut_conv")
        return self.layers.norm(projected, name="shortcut_norm") if self.normalizes_projection else projected

    def end(self, x: jax.Array, drop_rate: float | jax.Array | None) -> jax.Array:
        """What ends every F: a gate, a factor, and stochastic depth (Huang et al. 2016).

        They drop F for a whole batch, and multiply by the probability in evaluation. Here each example is drawn by
        itself, and an F that is kept is divided by the probability of that.
        """
        if self.squeeze_excitation is not None:
            x = SqueezeExcitation(self.squeeze_excitation, self.layers.dtype, name="squeeze_excitation")(x)
        if self.residual_scale is not None:
            scale = self.param("residual_scale", nn.initializers.constant(self.residual_scale), ())
            x = x * scale.astype(x.dtype)
        if drop_rate is not None and self.layers.train:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - drop_rate, (x.shape[0], 1, 1, 1))
            x = jnp.where(kept, x / jnp.asarray(1 - drop_rate, x.dtype), 0)
        return x
