"""The ResNet: stem, stages of residual blocks, global average pooling, linear head."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from resnet_jax.models.blocks import PostActivationBlock
from resnet_jax.models.layers import Layers
from resnet_jax.models.repetition import repeat
from resnet_jax.models.residual import Convolution, ResidualBlock, basic
from resnet_jax.models.stems import STEMS


class ResNet(nn.Module):
    """He et al. 2015, "Deep Residual Learning for Image Recognition", and what has been made of it.

    Attributes:
      stage_sizes: blocks in each stage; every stage but the first halves the resolution and doubles the width.
      num_classes: logits given out.
      block: the kind of residual block: where norms and activations stand.
      residual: `basic` or `bottleneck`: from a width and a stride to the convolutions of a block.
      width: of the first stage's blocks.
      stem_width: channels of the stem; None: as `width`.
      stem: a key of `stems.STEMS`.
      shortcut: where a block changes the shape: "projection", "average_pool" or "pad", see `ResidualBlock`.
      norm: one of `layers.NORMS`.
      weight_standardization, blur_pool: see `Layers`.
      squeeze_excitation, residual_scale, zero_init_residual, dropout: see `ResidualBlock`.
      stochastic_depth: probability that the last block is dropped for an example in training; it rises linearly from
        zero before the first one (Huang et al. 2016).
      head_init: of the classifier's kernel; by default a normal of 0.01 (Goyal et al. 2017, section 5.1).
      remat: training computes activations inside blocks again instead of keeping them, which saves memory.
      scan_blocks: equal blocks are compiled once and run in a loop, for very deep networks: on CPU it runs several
        times slower. The variables are the same; what blocks `sow`, or Linen captures of them, is lost.
      dtype: of the computation; parameters, batch statistics and logits are float32 in any case.
      norm_momentum, norm_epsilon, norm_group_size: see `Layers`.
    """

    stage_sizes: Sequence[int]
    num_classes: int
    block: type[ResidualBlock] = PostActivationBlock
    residual: Callable[[int, int], tuple[Convolution, ...]] = basic
    width: int = 64
    stem_width: int | None = None
    stem: str = "imagenet"
    shortcut: str = "projection"
    norm: str = "batch_norm"
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
        """From normalised images [batch, height, width, channels], any size and channel count, to logits and features.

        With `train=True` BatchNorm normalises with the statistics of the batch, or of groups of it, and updates the
        running ones: apply with `mutable=["batch_stats"]`. Under `jax.jit` over a mesh the batch is the global one,
        whatever the devices. Where the network has dropout or stochastic depth, training also takes
        `rngs={"dropout": key}`.

        Returns:
          float32 logits [batch, classes]; with `return_features` also a dict of "stem", "stage1", ..., each of `dtype`
          [batch, height, width, channels], and "pooled", float32 [batch, channels], which the head is applied to.
        """
        layers = Layers(
            train=train,
            dtype=self.dtype,
            norm_name=self.norm,
            norm_momentum=self.norm_momentum,
            norm_epsilon=self.norm_epsilon,
            norm_group_size=self.norm_group_size,
            weight_standardization=self.weight_standardization,
            blur_pool=self.blur_pool,
        )
        stem = STEMS[self.stem]
        x = stem(images.astype(self.dtype), self.stem_width or self.width, layers, not self.block.activates_input)
        features = {"stem": x}
        for stage in range(1, len(self.stage_sizes) + 1):
            x = features[f"stage{stage}"] = self._stage(x, stage, layers)
        x = self.block.finish(x, layers)
        x = features["pooled"] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        logits = nn.Dense(self.num_classes, kernel_init=self.head_init, name="head")(x)
        return (logits, features) if return_features else logits

    def _stage(self, x: jax.Array, stage: int, layers: Layers) -> jax.Array:
        """The blocks of a stage, counted from 1: the first changes the shape, the others are equal."""
        width, size = self.width * 2 ** (stage - 1), self.stage_sizes[stage - 1]
        names = [f"stage{stage}_block{index}" for index in range(1, size + 1)]
        before = sum(self.stage_sizes[: stage - 1])
        drop_rates = [self._drop_rate(before + index) for index in range(1, size + 1)]
        x = self._block(width, 1 if stage == 1 else 2, layers, name=names[0])(x, drop_rates[0])
        if self.scan_blocks and size > 2 and not self.is_initializing():
            return repeat(self, self._block(width, 1, layers, parent=None), names[1:], x, drop_rates[1:])
        for name, drop_rate in zip(names[1:], drop_rates[1:], strict=True):
            x = self._block(width, 1, layers, name=name)(x, drop_rate)
        return x

    def _drop_rate(self, index: int) -> float | None:
        """Of the block of that place in the network, from 1."""
        return self.stochastic_depth * index / sum(self.stage_sizes) if self.stochastic_depth else None

    def _block(self, width: int, stride: int, layers: Layers, **module) -> ResidualBlock:
        """A block; `module` is Linen's: `name`, or `parent=None` for one that stands alone."""
        return (nn.remat(self.block) if self.remat else self.block)(
            layers=layers,
            convolutions=self.residual(width, stride),
            shortcut=self.shortcut,
            zero_init_residual=self.zero_init_residual,
            squeeze_excitation=self.squeeze_excitation,
            residual_scale=self.residual_scale,
            dropout=self.dropout,
            num_blocks=sum(self.stage_sizes),
            **module,
        )
