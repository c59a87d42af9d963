"""The layers of a ResNet: convolution, normalization, dropout, squeeze-and-excitation and pooling.

Convolutions pad explicitly and symmetrically, as the published models do: SAME padding would shift strided convolutions
by a pixel.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from resnet_jax.models.max_pool import max_pool

# He et al. 2015, "Delving Deep into Rectifiers", equation 14 (the backward form: fan-out).
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
NORMS_WITH_SCALE = ("batch_norm", "group_norm")
NORMS = (*NORMS_WITH_SCALE, "bias", "scalar_bias")

Activation = Callable[[jax.Array], jax.Array]

# By the value of `model.activation`. GELU (Hendrycks & Gimpel 2016) with the exact error function, as in PyTorch.
ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
}


def resolve_activation(activation: str | Activation) -> Activation:
    """Return the function for the value of `model.activation`: a key of `ACTIVATIONS`, or the function itself."""
    return ACTIVATIONS[activation] if isinstance(activation, str) else activation


def partial_identity(
    key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None
) -> jax.Array:
    """Initialize a square kernel so that its first outputs are its inputs (Jordan 2024, "identity initialization").

    The other outputs start as in PyTorch: uniformly random with variance 1 / (3 * fan-in).

    Args:
      key: a PRNG key.
      shape: (size, size, inputs, outputs).
      dtype: the dtype of the kernel.
      out_sharding: the sharding of the kernel; every `Initializer` has this parameter.

    Example:
      >>> x = jnp.arange(18.0).reshape(1, 3, 3, 2)
      >>> y = nn.Conv(4, (3, 3), kernel_init=partial_identity).init_with_output(jax.random.key(0), x)[0]
      >>> bool((y[..., :2] == x).all())
      True
    """
    size, _, inputs, outputs = shape
    kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype, out_sharding)
    channels = jnp.arange(min(inputs, outputs))
    kernel = kernel.at[..., channels].set(0)
    return kernel.at[size // 2, size // 2, channels, channels].set(1)


# ---- Layers: applies convolutions and norms with the settings of a model ---------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layers:
    """Creates and applies the layers of a model, inside the `@nn.compact` method of a module.

    Attributes:
      train: whether BatchNorm and dropout behave as in training.
      dtype: the dtype of the computation.
      norm_name: "batch_norm" (Ioffe & Szegedy 2015); "group_norm" with 32 groups (Wu & He 2018, section 3); or, in
        place of a norm, a "bias" per channel or one "scalar_bias" for all channels.
      activation: a key of `ACTIVATIONS`, or a function.
      norm_momentum: the momentum of BatchNorm's running statistics.
      norm_epsilon: the epsilon of BatchNorm and GroupNorm.
      norm_group_size: the number of examples that share batch statistics, see `GroupedBatchNorm`; 0: the whole batch.
      weight_standardization: whether kernels are standardized, see `StandardizedConv`.
      blur_pool: whether max-pools and blocks apply a low-pass filter before they subsample (Zhang 2019, "Making
        Convolutional Networks Shift-Invariant Again", section 3.2). As in the authors' code, the convolutions of the
        stem have no such filter.
    """

    train: bool
    dtype: jnp.dtype
    norm_name: str
    activation: str | Activation
    norm_momentum: float
    norm_epsilon: float
    norm_group_size: int
    weight_standardization: bool
    blur_pool: bool

    def conv(
        self,
        x: jax.Array,
        features: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        init: Initializer = he_normal_fan_out,
        *,
        name: str,
    ) -> jax.Array:
        """Apply a square convolution without bias, padded so that stride 1 keeps the size."""
        conv = StandardizedConv if self.weight_standardization else nn.Conv
        return conv(
            features,
            (kernel, kernel),
            (stride, stride),
            padding=[(kernel // 2, kernel // 2)] * 2,
            feature_group_count=groups,
            use_bias=False,
            kernel_init=init,
            dtype=self.dtype,
            name=name,
        )(x)

    def norm(self, x: jax.Array, *, scale_init: Initializer = nn.initializers.ones, name: str) -> jax.Array:
        """Apply the norm called `norm_name`, or the bias in its place."""
        if self.norm_name == "batch_norm":
            batch_norm: Callable[..., nn.BatchNorm] = nn.BatchNorm
            if self.norm_group_size:
                batch_norm = functools.partial(GroupedBatchNorm, group_size=self.norm_group_size)
            return batch_norm(
                momentum=self.norm_momentum,
                epsilon=self.norm_epsilon,
                scale_init=scale_init,
                dtype=self.dtype,
                name=name,
            )(x, use_running_average=not self.train)
        if self.norm_name == "group_norm":
            num_groups = math.gcd(32, x.shape[-1])  # 32, or a smaller power of 2 that divides the channels
            return nn.GroupNorm(
                num_groups, epsilon=self.norm_epsilon, scale_init=scale_init, dtype=self.dtype, name=name
            )(x)
        bias_shapes = {"bias": (x.shape[-1],), "scalar_bias": ()}
        return Bias(bias_shapes[self.norm_name], name=name)(x)

    def activate(self, x: jax.Array) -> jax.Array:
        """Apply the activation."""
        return resolve_activation(self.activation)(x)

    def max_pool(self, x: jax.Array, pad_with_zeros: bool = False) -> jax.Array:
        """Max-pool over 3x3 with stride 2. With `blur_pool`: over 2x2 with stride 1, then blur with stride 2.

        The maximum ignores the padding, unless `pad_with_zeros` makes it count as zeros.
        """
        if self.blur_pool:
            return blur_pool(max_pool(x, window=2, stride=1), 2)
        if pad_with_zeros:
            return max_pool(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), window=3, stride=2)
        return max_pool(x, window=3, stride=2, padding=1)

    def dropout(self, x: jax.Array, rate: float) -> jax.Array:
        """Set each value to zero with probability `rate` in training (Srivastava et al. 2014)."""
        return nn.Dropout(rate, deterministic=not self.train, name="dropout")(x)


# ---- Modules ---------------------------------------------------------------------------------------------------------


class StandardizedConv(nn.Conv):
    """Convolution with weight standardization (Qiao et al. 2019, equation 5).

    Each output channel's kernel has mean 0 and variance 1 over its inputs. The variables hold, and the optimizer
    updates, the kernel before standardization.
    """

    def param(self, name: str, *arguments, **kwargs):
        value = super().param(name, *arguments, **kwargs)
        if name != "kernel":
            return value
        inputs = tuple(range(value.ndim - 1))
        variance = jnp.var(value, inputs, keepdims=True)
        return (value - jnp.mean(value, inputs, keepdims=True)) * jax.lax.rsqrt(variance + 1e-10)


class GroupedBatchNorm(nn.BatchNorm):
    """BatchNorm over groups of `group_size` consecutive examples: "ghost" BatchNorm (Hoffer et al. 2017, algorithm 1).

    A large batch is then normalized as a small one would be, and devices that share no group need not wait for each
    other's statistics. The running statistics move once per step, towards the mean over all groups; Hoffer et al. move
    them group by group. The variables and the evaluation mode are those of `nn.BatchNorm`.

    Attributes:
      group_size: the number of examples in a group; it must divide the batch.

    Example:
      >>> norm = GroupedBatchNorm(group_size=2)
      >>> images = jnp.arange(4.0).reshape(4, 1, 1, 1)
      >>> output, _ = norm.init_with_output(jax.random.key(0), images, use_running_average=False)
      >>> output.ravel().round(2).tolist()
      [-1.0, 1.0, -1.0, 1.0]
    """

    group_size: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:  # type: ignore[override]  # takes no mask
        """Normalize [batch, ..., channels]."""
        if use_running_average:
            return super().__call__(x, use_running_average=True)
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", self.bias_init, channels, self.param_dtype)

        groups = x.astype(jnp.float32).reshape(-1, self.group_size, *x.shape[1:])
        axes = tuple(range(1, groups.ndim - 1))  # the examples of a group, height and width
        mean = jnp.mean(groups, axes, keepdims=True)
        var = jnp.maximum(0.0, jnp.mean(jnp.square(groups), axes, keepdims=True) - jnp.square(mean))
        if not self.is_initializing():
            for running, value in ((running_mean, mean), (running_var, var)):
                mean_over_groups = jnp.mean(value.reshape(-1, *channels), axis=0)
                running.value = self.momentum * running.value + (1 - self.momentum) * mean_over_groups
        normalized = (groups - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return normalized.reshape(x.shape).astype(self.dtype or x.dtype)


class Bias(nn.Module):
    """Adds a learned array of this `shape`, initially zero."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.param("bias", nn.initializers.zeros, self.shape).astype(x.dtype)


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a gate computed from the spatial means of all channels (Hu et al. 2017, section 3).

    Attributes:
      reduction: the hidden layer has 1 / `reduction` of the channels; 16 in the paper.
      dtype: the dtype of the computation.
    """

    reduction: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = max(1, x.shape[-1] // self.reduction)
        gate = jnp.mean(x, axis=(1, 2), keepdims=True)
        gate = nn.relu(nn.Dense(hidden, dtype=self.dtype, name="reduce")(gate))
        return x * nn.sigmoid(nn.Dense(x.shape[-1], dtype=self.dtype, name="expand")(gate))


# ---- Pooling ---------------------------------------------------------------------------------------------------------


def blur_pool(x: jax.Array, stride: int) -> jax.Array:
    """Filter with (1, 3, 3, 1) / 8 along height and width, with mirrored borders, and keep every `stride`-th value.

    Example:
      >>> blur_pool(jnp.arange(6.0).reshape(1, 1, 6, 1), stride=2).ravel().tolist()
      [0.75, 2.5, 4.25]
    """
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (1, 2)
        padded = jnp.pad(x, padding, mode="reflect")
        reach = x.shape[axis] - (x.shape[axis] - 1) % stride  # The extent from the first kept value to the last.
        taps = [jax.lax.slice_in_dim(padded, tap, tap + reach, stride, axis) for tap in range(4)]
        x = (taps[0] + 3 * taps[1] + 3 * taps[2] + taps[3]) / 8
    return x


def average_pool(x: jax.Array, stride: int) -> jax.Array:
    """Average `stride` x `stride` windows. A window that overlaps the border averages the values inside.

    Example:
      >>> average_pool(jnp.arange(3.0).reshape(1, 1, 3, 1), stride=2).ravel().tolist()
      [0.5, 2.0]
    """
    padding = [(0, -size % stride) for size in x.shape[1:3]]
    return nn.avg_pool(x, (stride, stride), (stride, stride), padding, count_include_pad=False).astype(x.dtype)
