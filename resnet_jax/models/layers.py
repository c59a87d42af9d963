"""The layers that every network is built of, each made in one place.

Convolutions pad explicitly and symmetrically, as the published networks do: SAME padding would shift strided
convolutions by a pixel.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

# --- BatchNorm with statistics of small groups, whatever the batch.


class GroupedBatchNorm(nn.BatchNorm):
    """BatchNorm over groups of `group_size` consecutive examples: "ghost" BatchNorm (Hoffer et al. 2017, algorithm 1).

    So a large batch is normalised as a small one would be. Where no group is spread over several devices, they need not
    wait for each other's statistics. The running ones move towards the means over all groups, once a step; Hoffer et
    al. move them group by group. Variables, and what evaluation does with them, are those of `nn.BatchNorm`.

    Attributes:
      group_size: it divides the batch.
    """

    group_size: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        """Normalises [batch, ..., channels]."""
        if use_running_average:
            return super().__call__(x, use_running_average=True)
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", self.bias_init, channels, self.param_dtype)

        groups = x.astype(jnp.float32).reshape(-1, self.group_size, *x.shape[1:])
        within = tuple(range(1, groups.ndim - 1))
        mean = jnp.mean(groups, within, keepdims=True)
        var = jnp.maximum(0.0, jnp.mean(jnp.square(groups), within, keepdims=True) - jnp.square(mean))
        if not self.is_initializing():
            for running, value in ((running_mean, mean), (running_var, var)):
                over_groups = jnp.mean(value.reshape(-1, *channels), axis=0)
                running.value = self.momentum * running.value + (1 - self.momentum) * over_groups
        normalized = (groups - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return normalized.reshape(x.shape).astype(self.dtype or x.dtype)


# He et al. 2015, "Delving Deep into Rectifiers", equation 14 (the backward form: fan-out).
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
NORMS_WITH_SCALE = ("batch_norm", "group_norm")
NORMS = (*NORMS_WITH_SCALE, "bias", "scalar_bias")


@dataclasses.dataclass(frozen=True)
class Layers:
    """How the layers of a network are made; called inside a module's `@nn.compact` method.

    Attributes:
      train: batch statistics and dropout are those of training.
      dtype: of the computation.
      norm_name: "batch_norm" (Ioffe & Szegedy 2015), "group_norm" of 32 groups (Wu & He 2018, section 3), or in its
        place no more than a "bias" for each channel or one "scalar_bias" for all.
      norm_momentum: of BatchNorm's running statistics.
      norm_epsilon: of BatchNorm and GroupNorm.
      norm_group_size: of the groups of examples that BatchNorm takes its statistics of; 0: of the whole batch.
      weight_standardization: kernels have mean 0 and variance 1 over their inputs (Qiao et al. 2019, equation 5).
      blur_pool: max-pools and blocks low-pass filter before they stride (Zhang 2019, "Making Convolutional Networks
        Shift-Invariant Again", section 3.2); the stem's convolution does not, as in their code.
    """

    train: bool
    dtype: jnp.dtype
    norm_name: str
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
        """A square convolution without bias, padded so that stride 1 keeps the size."""
        return (StandardizedConv if self.weight_standardization else nn.Conv)(
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
        """The normalisation over batch and space, or what stands in its place."""
        if self.norm_name == "batch_norm":
            grouped = functools.partial(GroupedBatchNorm, group_size=self.norm_group_size)
            return (grouped if self.norm_group_size else nn.BatchNorm)(
                momentum=self.norm_momentum,
                epsilon=self.norm_epsilon,
                scale_init=scale_init,
                dtype=self.dtype,
                name=name,
            )(x, use_running_average=not self.train)
        if self.norm_name == "group_norm":
            groups = math.gcd(32, x.shape[-1])  # Fewer only where 32 do not go into the channels.
            return nn.GroupNorm(groups, epsilon=self.norm_epsilon, scale_init=scale_init, dtype=self.dtype, name=name)(
                x
            )
        return Bias((x.shape[-1],) if self.norm_name == "bias" else (), name=name)(x)

    def dropout(self, x: jax.Array, rate: float) -> jax.Array:
        """Sets each value to zero with probability `rate`, in training (Srivastava et al. 2014)."""
        return nn.Dropout(rate, deterministic=not self.train, name="dropout")(x)


class StandardizedConv(nn.Conv):
    """A convolution with weight standardisation; what is stored and trained is the kernel before it."""

    def param(self, name: str, *arguments, **settings):
        value = super().param(name, *arguments, **settings)
        if name != "kernel":
            return value
        inputs = tuple(range(value.ndim - 1))
        variance = jnp.var(value, inputs, keepdims=True)
        return (value - jnp.mean(value, inputs, keepdims=True)) * jax.lax.rsqrt(variance + 1e-10)


class Bias(nn.Module):
    """Adds a learned array of `shape`, at first zero."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.param("bias", nn.initializers.zeros, self.shape).astype(x.dtype)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate that sees the mean of all of them (Hu et al. 2017, section 3).

    Attributes:
      reduction: the hidden layer has the channels divided by this, 16 in the paper.
      dtype: of the computation.
    """

    reduction: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = max(1, x.shape[-1] // self.reduction)
        gate = jnp.mean(x, axis=(1, 2), keepdims=True)
        gate = nn.relu(nn.Dense(hidden, dtype=self.dtype, name="reduce")(gate))
        return x * nn.sigmoid(nn.Dense(x.shape[-1], dtype=self.dtype, name="expand")(gate))


def blur_pool(x: jax.Array, stride: int) -> jax.Array:
    """Filters with (1, 3, 3, 1) / 8 along height and width, over mirrored borders, and takes each `stride`-th value."""
    for axis in (1, 2):
        borders = [(1, 2) if axis == other else (0, 0) for other in range(4)]
        padded = jnp.pad(x, borders, mode="reflect")
        reach = x.shape[axis] - (x.shape[axis] - 1) % stride  # from the first value that is taken to the last
        taps = [jax.lax.slice_in_dim(padded, tap, tap + reach, stride, axis) for tap in range(4)]
        x = (taps[0] + 3 * taps[1] + 3 * taps[2] + taps[3]) / 8
    return x


def average_pool(x: jax.Array, stride: int) -> jax.Array:
    """Means of `stride` x `stride` values; at the far borders of what is left of them."""
    borders = [(0, -size % stride) for size in x.shape[1:3]]
    return nn.avg_pool(x, (stride, stride), (stride, stride), borders, count_include_pad=False).astype(x.dtype)
