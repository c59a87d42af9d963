"""The ResNet: stem, stages of residual blocks, global average pooling, linear head."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.models.blocks import ResidualBlock, conv


class ResNet(nn.Module):
    """He et al. 2015, "Deep Residual Learning for Image Recognition".

    Attributes:
      stage_sizes: blocks in each stage; every stage but the first halves the resolution and doubles the width.
      block: the kind of residual block.
      num_classes: logits given out.
      width: channels of the stem and of the first stage's blocks.
      stem: "imagenet" (7x7 convolution with stride 2, then 3x3 max-pool with stride 2) or "cifar" (3x3, stride 1).
      shortcut: "projection" or "pad", where a block changes the shape.
      zero_init_residual: each block starts as the identity.
      dtype: of the computation; parameters, batch statistics and logits are float32 in any case.
      norm_momentum, norm_epsilon: of BatchNorm.
    """

    stage_sizes: Sequence[int]
    block: type[ResidualBlock]
    num_classes: int
    width: int = 64
    stem: str = "imagenet"
    shortcut: str = "projection"
    zero_init_residual: bool = False
    dtype: jnp.dtype = jnp.float32
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Normalised images [batch, height, width, channels], any size and channel count, to logits [batch, classes].

        With `train=True` BatchNorm normalises with the statistics of the batch and updates the running ones: apply with
        `mutable=["batch_stats"]`. Under `jax.jit` over a mesh the batch is the global one, whatever the devices.
        """
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            dtype=self.dtype,
        )
        x = self._stem(images.astype(self.dtype), norm)
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                x = self.block(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    norm=norm,
                    shortcut=self.shortcut,
                    zero_init_residual=self.zero_init_residual,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        # A normal of 0.01 for the classifier: Goyal et al. 2017, 5.1.
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)

    def _stem(self, x: jax.Array, norm) -> jax.Array:
        if self.stem == "cifar":
            x = conv(self.width, 3, dtype=self.dtype, name="stem_conv")(x)
            return nn.relu(norm(name="stem_norm")(x))
        x = conv(self.width, 7, stride=2, dtype=self.dtype, name="stem_conv")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])
