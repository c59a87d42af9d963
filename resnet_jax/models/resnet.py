"""ResNet: a stem, stages of residual blocks, global average pooling and a linear head.

The file reads top to bottom: stems, the convolutions of a block, residual blocks, the model.
`variants.py` has the table of named models and `layers.py` has convolution, normalization and pooling.

References:
  He et al. 2015, "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385
  He et al. 2016, "Identity Mappings in Deep Residual Networks", https://arxiv.org/abs/1603.05027
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from resnet_jax.errors import UserError
from resnet_jax.models.layers import (
    Activation,
    Bias,
    Layers,
    SqueezeExcitation,
    average_pool,
    blur_pool,
    he_normal_fan_out,
    partial_identity,
)
from resnet_jax.models.max_pool import max_pool
from resnet_jax.models.scan_blocks import scan_over_blocks

# ---- Stems: what comes before the first block ------------------------------------------------------------------------
# `width` is the number of output channels. `activate` says whether norm and activation follow the last convolution.


def imagenet_stem(x: jax.Array, width: int, layers: Layers, activate: bool) -> jax.Array:
    """Apply a 7x7 convolution and a max-pool, both with stride 2 (He et al. 2015, table 1)."""
    x = layers.conv(x, width, 7, 2, name="stem_conv")
    if activate:
        x = norm_and_activate(x, layers, "stem_norm")
    return layers.max_pool(x)


def cifar_stem(x: jax.Array, width: int, layers: Layers, activate: bool) -> jax.Array:
    """Apply a 3x3 convolution with stride 1 (He et al. 2015, section 4.2)."""
    x = layers.conv(x, width, 3, name="stem_conv")
    if activate:
        x = norm_and_activate(x, layers, "stem_norm")
    return x


def deep_stem(x: jax.Array, width: int, layers: Layers, activate: bool) -> jax.Array:
    """Apply three 3x3 convolutions, the first with stride 2, and a max-pool with stride 2.

    This is the stem of ResNet-C and ResNet-D (He et al. 2018, "Bag of Tricks", figure 2b).
    """
    x = layers.conv(x, width // 2, 3, 2, name="stem_conv1")
    x = norm_and_activate(x, layers, "stem_norm1")
    x = layers.conv(x, width // 2, 3, name="stem_conv2")
    x = norm_and_activate(x, layers, "stem_norm2")
    x = layers.conv(x, width, 3, name="stem_conv3")
    if activate:
        x = norm_and_activate(x, layers, "stem_norm3")
    return layers.max_pool(x)


def bit_stem(x: jax.Array, width: int, layers: Layers, activate: bool) -> jax.Array:
    """Apply the ImageNet stem, but pad the max-pool with zeros, as the code of BiT does (Kolesnikov et al. 2019)."""
    x = layers.conv(x, width, 7, 2, name="stem_conv")
    if activate:
        x = norm_and_activate(x, layers, "stem_norm")
    return layers.max_pool(x, pad_with_zeros=True)


def whitening_stem(x: jax.Array, width: int, layers: Layers, activate: bool) -> jax.Array:
    """Apply a 2x2 convolution, without padding, that whitens patches (Coates & Ng 2012, section 2.2), and a bias.

    It outputs 8 channels per channel of the images and ignores `width`. A new run computes the kernel from its training
    images (`whitening.patch_whitening_kernel`). Freeze "stem_conv/kernel" to leave it unchanged in training.
    """
    del width
    x = nn.Conv(
        8 * x.shape[-1], (2, 2), padding=[(0, 0), (0, 0)], use_bias=False, dtype=layers.dtype, name="stem_conv"
    )(x)
    x = Bias(x.shape[-1:], name="stem_bias")(x)
    return layers.activate(x) if activate else x


def norm_and_activate(x: jax.Array, layers: Layers, name: str) -> jax.Array:
    return layers.activate(layers.norm(x, name=name))


# The stem by the value of `model.stem`.
STEMS: dict[str, Callable[[jax.Array, int, Layers, bool], jax.Array]] = {
    "imagenet": imagenet_stem,
    "cifar": cifar_stem,
    "deep": deep_stem,
    "bit": bit_stem,
    "whitening": whitening_stem,
}


# ---- The convolutions of a residual block ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """A `kernel` x `kernel` convolution to `features` channels.

    The channels are split into `groups` independent channel groups.
    """

    kernel: int
    features: int
    stride: int = 1
    groups: int = 1


def basic(width: int, stride: int) -> tuple[ConvSpec, ...]:
    """Return two 3x3 convolutions, as in ResNet-18, ResNet-34 and the CIFAR models (He et al. 2015, figure 5, left).

    Example:
      >>> basic(64, stride=2)
      (ConvSpec(kernel=3, features=64, stride=2, groups=1), ConvSpec(kernel=3, features=64, stride=1, groups=1))
    """
    return ConvSpec(3, width, stride), ConvSpec(3, width)


def three_convs(width: int, stride: int) -> tuple[ConvSpec, ...]:
    """Return three 3x3 convolutions, as in airbench96 (Jordan 2024)."""
    return ConvSpec(3, width, stride), ConvSpec(3, width), ConvSpec(3, width)


def bottleneck(width: int, stride: int, groups: int = 1, group_width: int = 64) -> tuple[ConvSpec, ...]:
    """Return 1x1, 3x3 and 1x1 convolutions, as in ResNet-50 and deeper models (He et al. 2015, figure 5, right).

    The last convolution has 4 * `width` channels. The stride is in the 3x3 convolution ("v1.5", Goyal et al. 2017,
    section 5.1).

    Args:
      width: the number of channels that the 3x3 convolution has in a plain ResNet.
      stride: the stride of the block.
      groups: the number of groups of the 3x3 convolution (ResNeXt, Xie et al. 2016, figure 3c).
      group_width: the channels per group if `width` is 64. Otherwise they are scaled in proportion to `width`.
    """
    inner = width * group_width // 64 * groups
    return ConvSpec(1, inner), ConvSpec(3, inner, stride, groups), ConvSpec(1, 4 * width)


# ---- The residual block: y = F(x) + shortcut(x) ----------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Base class of residual blocks, which add F(x) and a shortcut from x.

    `__call__` of a subclass says where norms and activations go.

    Attributes:
      layers: creates and applies the layers.
      convolutions: the convolutions of F. At most one has a stride above 1, and the last has stride 1.
      shortcut: how the shortcut changes the shape if F changes it: "projection" (1x1 convolution: option B of He et al.
        2015, section 3.3), "average_pool" (average-pool with the stride, then 1x1 convolution) or "pad" (subsample, and
        pad the channels with zeros: option A).
      zero_init_residual: whether F starts as zero (Goyal et al. 2017, section 5.1).
      squeeze_excitation: the reduction of a `SqueezeExcitation` at the end of F; None: no such layer.
      residual_scale: the initial value of a learned scalar that multiplies F; None: no such scalar. With 0, this is
        SkipInit (De & Smith 2020) and ReZero (Bachlechner et al. 2020).
      dropout: the dropout rate before the last convolution (Zagoruyko & Komodakis 2016, section 2.4).
      num_blocks: the number of blocks of the whole model.
    """

    layers: Layers
    convolutions: tuple[ConvSpec, ...]
    shortcut: str
    zero_init_residual: bool
    squeeze_excitation: int | None
    residual_scale: float | None
    dropout: float
    num_blocks: int

    pre_activation = False  # Whether the block starts with norm and activation. The stem then ends without them.
    strides_in_first_stage = False  # Whether the first stage halves the resolution too.
    norm_after_projection = False  # Whether a norm follows the 1x1 convolution of the shortcut.

    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        """Apply the block.

        Args:
          x: [batch, height, width, channels].
          drop_rate: the probability of dropping F for an example in training; None: never.

        Returns:
          [batch, height / stride, width / stride, `convolutions[-1].features`], rounded up, or down by max-pools.
        """
        raise NotImplementedError

    @staticmethod
    def final_layers(x: jax.Array, layers: Layers) -> jax.Array:
        """Apply what comes between the last block and the average pooling; by default nothing."""
        del layers
        return x

    def convolve(self, x: jax.Array, number: int, init: Initializer = he_normal_fan_out) -> jax.Array:
        """Apply convolution `number` of F, counted from 1, after any blurring and dropout of its input."""
        conv = self.convolutions[number - 1]
        stride = conv.stride
        if self.layers.blur_pool:
            # Zhang 2019, section 3.2: a convolution does not stride. Instead, the input of the next one is subsampled.
            stride = 1
            previous_stride = self.convolutions[number - 2].stride if number > 1 else 1
            if previous_stride > 1:
                x = blur_pool(x, previous_stride)
        if number == len(self.convolutions):
            x = self.layers.dropout(x, self.dropout)
        return self.layers.conv(x, conv.features, conv.kernel, stride, conv.groups, init, name=f"conv{number}")

    def skip_connection(self, x: jax.Array, conv1_input: jax.Array) -> jax.Array:
        """Return the shortcut: `x` itself or, if F changes the shape, `conv1_input` brought to the shape of F(x).

        `shortcut` says how the shape is changed: as in He et al. 2015, section 3.3, or by pooling before the 1x1
        convolution (He et al. 2018, "Bag of Tricks", figure 2c).

        Args:
          x: the input of the block.
          conv1_input: the input of the first convolution of F. It differs from `x` if a norm, an activation or a bias
            comes before that convolution.
        """
        features = self.convolutions[-1].features
        stride = max(conv.stride for conv in self.convolutions)
        if stride == 1 and x.shape[-1] == features:
            return x
        if stride > 1 and self.shortcut == "average_pool":
            conv1_input = average_pool(conv1_input, stride)
            stride = 1
        elif stride > 1 and self.layers.blur_pool:
            conv1_input = blur_pool(conv1_input, stride)
            stride = 1
        if self.shortcut == "pad":
            before = (features - x.shape[-1]) // 2
            after = features - x.shape[-1] - before
            # The same as conv1_input[:, ::stride, ::stride], which becomes a gather if the batch size is symbolic.
            subsampled = jax.lax.slice(conv1_input, (0, 0, 0, 0), conv1_input.shape, (1, stride, stride, 1))
            return jnp.pad(subsampled, [(0, 0), (0, 0), (0, 0), (before, after)])
        projected = self.layers.conv(conv1_input, features, 1, stride, name="shortcut_conv")
        if self.norm_after_projection:
            projected = self.layers.norm(projected, name="shortcut_norm")
        return projected

    def scale_and_drop(self, x: jax.Array, drop_rate: float | jax.Array | None) -> jax.Array:
        """Apply the final operations of F: squeeze-and-excitation, a learned scalar and stochastic depth.

        Huang et al. 2016 drop F for a whole batch, and multiply F by its survival probability in evaluation. Here F is
        dropped for each example independently. Where F survives, it is divided by its survival probability in training,
        so that evaluation needs no factor.
        """
        if self.squeeze_excitation is not None:
            x = SqueezeExcitation(self.squeeze_excitation, self.layers.dtype, name="squeeze_excitation")(x)
        if self.residual_scale is not None:
            scale = self.param("residual_scale", nn.initializers.constant(self.residual_scale), ())
            x = x * scale.astype(x.dtype)
        if drop_rate is not None and self.layers.train:
            survives = jax.random.bernoulli(self.make_rng("dropout"), 1 - drop_rate, (x.shape[0], 1, 1, 1))
            x = jnp.where(survives, x / jnp.asarray(1 - drop_rate, x.dtype), 0)
        return x


class PostActivationBlock(ResidualBlock):
    """Convolution, norm, activation; the last activation follows the sum (He et al. 2015, figure 2).

    Example:
      >>> model = ResNet(stage_sizes=(1,), num_classes=10, width=4, stem="cifar", block=PostActivationBlock)
      >>> images = jnp.zeros((1, 8, 8, 3))
      >>> variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
      >>> sorted(variables["params"]["stage1_block1"])
      ['conv1', 'conv2', 'norm1', 'norm2']
    """

    norm_after_projection = True

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        y = x
        for number in range(1, len(self.convolutions) + 1):
            is_last = number == len(self.convolutions)
            zero_init = is_last and self.zero_init_residual
            scale_init = nn.initializers.zeros if zero_init else nn.initializers.ones
            y = self.convolve(y, number)
            y = self.layers.norm(y, scale_init=scale_init, name=f"norm{number}")
            if not is_last:
                y = self.layers.activate(y)
        return self.layers.activate(self.scale_and_drop(y, drop_rate) + self.skip_connection(x, conv1_input=x))


class PreActivationBlock(ResidualBlock):
    """Norm, activation, convolution; nothing follows the sum (He et al. 2016, figure 1b).

    Where a block changes the shape, the shortcut starts from the input after norm and activation, as in the authors'
    code. Otherwise the shortcut passes the input as it is. The first block is no exception, as in timm; in the appendix
    of the paper, the shortcut of the first block always starts after norm and activation.
    """

    pre_activation = True

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        activated = self.layers.activate(self.layers.norm(x, name="norm1"))
        y = activated
        for number in range(1, len(self.convolutions) + 1):
            is_last = number == len(self.convolutions)
            zero_init = is_last and self.zero_init_residual
            if number > 1:
                y = self.layers.activate(self.layers.norm(y, name=f"norm{number}"))
            y = self.convolve(y, number, nn.initializers.zeros if zero_init else he_normal_fan_out)
        return self.scale_and_drop(y, drop_rate) + self.skip_connection(x, conv1_input=activated)

    @staticmethod
    def final_layers(x: jax.Array, layers: Layers) -> jax.Array:
        return norm_and_activate(x, layers, "final_norm")


class FixupBlock(ResidualBlock):
    """No norm; scalar biases, a scalar factor and small initial kernels (Zhang et al. 2019, "Fixup Initialization").

    Section 3: the last convolution starts at zero, and the kernels of the others are scaled by
    `num_blocks ** (-1 / (2m - 2))`, where m >= 2 is the number of convolutions per block. A bias precedes each
    convolution and each activation.
    """

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        num_convs = len(self.convolutions)
        variance = 2.0 * self.num_blocks ** (-2 / (2 * num_convs - 2))
        small_init = nn.initializers.variance_scaling(variance, "fan_out", "normal")
        biased = Bias((), name="bias1a")(x)
        y = biased
        for number in range(1, num_convs + 1):
            is_last = number == num_convs
            if number > 1:
                y = Bias((), name=f"bias{number}a")(y)
            y = self.convolve(y, number, nn.initializers.zeros if is_last else small_init)
            if is_last:
                y = y * self.param("scale", nn.initializers.ones, ()).astype(y.dtype)
            y = Bias((), name=f"bias{number}b")(y)
            if not is_last:
                y = self.layers.activate(y)
        return self.layers.activate(self.scale_and_drop(y, drop_rate) + self.skip_connection(x, conv1_input=biased))

    @staticmethod
    def final_layers(x: jax.Array, layers: Layers) -> jax.Array:
        """Apply the scalar bias that Fixup has before the head: the "norm" of these models is `scalar_bias`."""
        return layers.norm(x, name="final_norm")


class MaxPoolBlock(ResidualBlock):
    """Convolution, max-pool, norm, activation; then F, the other convolutions, with a shortcut across them.

    This is the block of airbench96 (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"). All convolutions
    start as partial identities. Before the average pooling, the model takes the maximum over all positions.
    """

    strides_in_first_stage = True
    has_shortcut = True

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array | None = None) -> jax.Array:
        first = self.convolutions[0]
        y = self.layers.conv(x, first.features, first.kernel, init=partial_identity, name="conv1")
        y = max_pool(y, window=first.stride, stride=first.stride)
        y = norm_and_activate(y, self.layers, "norm1")
        shortcut = y if self.has_shortcut else 0
        for number in range(2, len(self.convolutions) + 1):
            is_last = number == len(self.convolutions)
            scale_init = nn.initializers.zeros if is_last and self.zero_init_residual else nn.initializers.ones
            y = self.convolve(y, number, partial_identity)
            y = self.layers.norm(y, scale_init=scale_init, name=f"norm{number}")
            if not is_last:
                y = self.layers.activate(y)
        return self.layers.activate(self.scale_and_drop(y, drop_rate) + shortcut)

    @staticmethod
    def final_layers(x: jax.Array, layers: Layers) -> jax.Array:
        del layers
        if 0 in x.shape[1:3]:
            raise UserError(
                "the images are too small for the max-pools of this model. Set a larger dataset.image_size."
            )
        return jnp.max(x, axis=(1, 2), keepdims=True)


class PlainMaxPoolBlock(MaxPoolBlock):
    """A `MaxPoolBlock` without shortcut, as in the airbench94 of Jordan 2024 (our "airbench94_plain")."""

    has_shortcut = False


# ---- The model -------------------------------------------------------------------------------------------------------


class ResNet(nn.Module):
    """The ResNet of He et al. 2015 and the variants that followed it.

    Attributes:
      stage_sizes: the number of blocks per stage. Every stage but the first halves the resolution (with max-pool
        blocks, the first does so as well) and, without `stage_widths`, doubles the width.
      num_classes: the number of logits; 0: no head, and the pooled features take the place of the logits.
      block: the kind of residual block, which says where norms and activations go.
      residual: a function from width and stride to the convolutions of a block: `basic`, `bottleneck` or
        `three_convs`.
      width: the width of the blocks of the first stage.
      stage_widths: the width of the blocks of each stage; None: `width`, 2 * `width`, 4 * `width`, ...
      stem_width: the channels of the stem; None: `width`.
      stem: a key of `STEMS`.
      shortcut: how shortcuts change the shape: "projection", "average_pool" or "pad"; see `ResidualBlock`.
      norm: one of `layers.NORMS`.
      activation: a key of `layers.ACTIVATIONS`, or a function.
      weight_standardization, blur_pool: see `Layers`.
      squeeze_excitation, residual_scale, zero_init_residual, dropout: see `ResidualBlock`.
      stochastic_depth: the probability of dropping the last block for an example in training. The probabilities of
        the blocks before it rise linearly, from zero at the input (Huang et al. 2016).
      head_init: the initializer of the head's kernel; default: a normal of std 0.01 (Goyal et al. 2017, section 5.1).
      remat: whether the backward pass recomputes the activations inside blocks, which saves memory.
      scan_blocks: whether blocks of identical shape are compiled once and run in a loop, for very deep models. On CPU
        this runs several times slower. The variables are the same. Values that blocks `sow`, and intermediates that
        Linen captures, are lost.
      dtype: the dtype of the computation. Parameters, batch statistics and logits are always float32.
      norm_momentum, norm_epsilon, norm_group_size: see `Layers`.

    Example:
      >>> model = ResNet(stage_sizes=(1, 1), num_classes=10, width=4, stem="cifar")
      >>> images = jnp.zeros((2, 8, 8, 3))
      >>> logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
      >>> logits.shape
      (2, 10)
    """

    stage_sizes: Sequence[int]
    num_classes: int
    block: type[ResidualBlock] = PostActivationBlock
    residual: Callable[[int, int], tuple[ConvSpec, ...]] = basic
    width: int = 64
    stage_widths: Sequence[int] | None = None
    stem_width: int | None = None
    stem: str = "imagenet"
    shortcut: str = "projection"
    norm: str = "batch_norm"
    activation: str | Activation = "relu"
    weight_standardization: bool = False
    blur_pool: bool = False
    squeeze_excitation: int | None = None
    residual_scale: float | None = None
    zero_init_residual: bool = False
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    head_init: Initializer = nn.initializers.normal(0.01)
    remat: bool = False
    scan_blocks: bool = False
    dtype: jnp.dtype = jnp.float32
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    norm_group_size: int = 0

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, return_features: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Compute the logits of normalized images, and on request the features of each stage.

        With `train=True`, BatchNorm normalizes with the statistics of the batch, or of groups of it, and updates the
        running statistics, so call `apply` with `mutable=["batch_stats"]`. Under `jax.jit` over a mesh, the batch is
        the global batch, on any number of devices. Dropout and stochastic depth need `rngs={"dropout": key}` in
        training.

        Args:
          images: [batch, height, width, channels], of any number of channels. Any size will do, except that the
            max-pools of airbench need at least 9 pixels.
          train: whether to run in training mode (batch statistics, dropout, stochastic depth).
          return_features: whether to return the features as well.

        Returns:
          The logits, float32 [batch, classes]. With `return_features` also a dict of features: "stem", "stage1",
          "stage2", ... map to [batch, height, width, channels] of `dtype`, and "pooled" (the input of the head) maps to
          float32 [batch, channels].

        Raises:
          UserError: if the images are too small.
        """
        layers = Layers(
            train=train,
            dtype=self.dtype,
            norm_name=self.norm,
            activation=self.activation,
            norm_momentum=self.norm_momentum,
            norm_epsilon=self.norm_epsilon,
            norm_group_size=self.norm_group_size,
            weight_standardization=self.weight_standardization,
            blur_pool=self.blur_pool,
        )
        features = {}

        stem = STEMS[self.stem]
        x = stem(images.astype(self.dtype), self.stem_width or self.width, layers, not self.block.pre_activation)
        features["stem"] = x

        for stage in range(1, len(self.stage_sizes) + 1):
            x = self._stage(x, stage, layers)
            features[f"stage{stage}"] = x

        x = self.block.final_layers(x, layers)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        features["pooled"] = x

        logits = nn.Dense(self.num_classes, kernel_init=self.head_init, name="head")(x) if self.num_classes else x
        return (logits, features) if return_features else logits

    def _stage(self, x: jax.Array, stage: int, layers: Layers) -> jax.Array:
        """Apply the blocks of a stage, counted from 1. The first block may change the shape; the others keep it."""
        width = self.stage_widths[stage - 1] if self.stage_widths else self.width * 2 ** (stage - 1)
        stride = 2 if stage > 1 or self.block.strides_in_first_stage else 1
        num_blocks = self.stage_sizes[stage - 1]
        blocks_before = sum(self.stage_sizes[: stage - 1])
        names = [f"stage{stage}_block{index}" for index in range(1, num_blocks + 1)]
        drop_rates = [self._drop_rate(blocks_before + index) for index in range(1, num_blocks + 1)]

        x = self._block(width, stride, layers, name=names[0])(x, drop_rates[0])
        if self.scan_blocks and num_blocks > 2 and not self.is_initializing():
            block = self._block(width, 1, layers, parent=None)
            return scan_over_blocks(self, block, names[1:], x, drop_rates[1:])
        for name, drop_rate in zip(names[1:], drop_rates[1:], strict=True):
            x = self._block(width, 1, layers, name=name)(x, drop_rate)
        return x

    def _drop_rate(self, position: int) -> float | None:
        """Return the drop rate of the block at this 1-based position in the model (Huang et al. 2016, equation 4)."""
        if not self.stochastic_depth:
            return None
        return self.stochastic_depth * position / sum(self.stage_sizes)

    def _block(self, width: int, stride: int, layers: Layers, **linen_arguments) -> ResidualBlock:
        """Build a block. `linen_arguments`: its `name`, or `parent=None` for a block that is not a submodule."""
        block = nn.remat(self.block) if self.remat else self.block
        return block(
            layers=layers,
            convolutions=self.residual(width, stride),
            shortcut=self.shortcut,
            zero_init_residual=self.zero_init_residual,
            squeeze_excitation=self.squeeze_excitation,
            residual_scale=self.residual_scale,
            dropout=self.dropout,
            num_blocks=sum(self.stage_sizes),
            **linen_arguments,
        )
