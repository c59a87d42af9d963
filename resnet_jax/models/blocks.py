"""The residual blocks and what they share.

Convolutions pad explicitly and symmetrically, as the published networks do: SAME padding would shift strided
convolutions by a pixel.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Norm = Callable[..., nn.Module]

# He et al. 2015, "Delving Deep into Rectifiers", equation 14 (the backward form: fan-out).
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, kernel: int, stride: int = 1, *, dtype: jnp.dtype, name: str) -> nn.Conv:
    """A square convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=[(kernel // 2, kernel // 2)] * 2,
        use_bias=False,
        kernel_init=he_normal_fan_out,
        dtype=dtype,
        name=name,
    )


class ResidualBlock(nn.Module):
    """y = relu(residual(x) + shortcut(x)); a kind of block is a `residual` and an `expansion`.

    Attributes:
      width: channels inside the block; it gives out `width * expansion`.
      stride: of the downsampling convolution, 1 or 2.
      norm: makes a normalisation layer: `norm(name=..., scale_init=...)`.
      shortcut: where the shape changes, "projection" (1x1 convolution, option B) or "pad" (option A).
      zero_init_residual: start as the identity.
      dtype: of the computation.
    """

    width: int
    stride: int
    norm: Norm
    shortcut: str
    zero_init_residual: bool
    dtype: jnp.dtype

    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] to [batch, height / stride, width / stride, self.width * expansion]."""
        return nn.relu(self.residual(x) + self.skip(x))

    def residual(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError

    def last_norm(self, name: str) -> nn.Module:
        """The norm that ends the residual; with zero scale a block starts as the identity (Goyal et al. 2017, 5.1)."""
        init = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        return self.norm(name=name, scale_init=init)

    def skip(self, x: jax.Array) -> jax.Array:
        """He et al. 2015, "Deep Residual Learning", 3.3: the identity, or option A or B where the shape changes."""
        features = self.width * self.expansion
        if self.stride == 1 and x.shape[-1] == features:
            return x
        if self.shortcut == "pad":
            before = (features - x.shape[-1]) // 2
            after = features - x.shape[-1] - before
            return jnp.pad(x[:, :: self.stride, :: self.stride], [(0, 0), (0, 0), (0, 0), (before, after)])
        x = conv(features, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
        return self.norm(name="shortcut_norm")(x)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions: ResNet-18, ResNet-34 and the CIFAR networks."""

    def residual(self, x: jax.Array) -> jax.Array:
        x = conv(self.width, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(self.norm(name="norm1")(x))
        x = conv(self.width, 3, dtype=self.dtype, name="conv2")(x)
        return self.last_norm("norm2")(x)


class BottleneckBlock(ResidualBlock):
    """1x1 down, 3x3, 1x1 up: ResNet-50 and deeper. v1.5: the stride sits in the 3x3 (Goyal et al. 2017, 5.1)."""

    expansion = 4

    def residual(self, x: jax.Array) -> jax.Array:
        x = conv(self.width, 1, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(self.norm(name="norm1")(x))
        x = conv(self.width, 3, self.stride, dtype=self.dtype, name="conv2")(x)
        x = nn.relu(self.norm(name="norm2")(x))
        x = conv(self.width * self.expansion, 1, dtype=self.dtype, name="conv3")(x)
        return self.last_norm("norm3")(x)
