"""The ResNet: stem, stages of residual blocks, global average pooling, linear head."""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from resnet_jax.models.layers import Bias, Layers, SqueezeExcitation, average_pool, blur_pool, he_normal_fan_out

# --- What comes before the first block, by name.


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


# --- What all residual blocks have in common: their convolutions, their shortcut, and how a residual ends.


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


# --- The kinds of residual blocks: where norms and activations stand.


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


# --- Equal blocks as a loop, compiled once.


def repeat(
    network: nn.Module, block: nn.Module, names: Sequence[str], x: jax.Array, drop_rates: Sequence[float | None]
) -> jax.Array:
    """Applies `block` once for each of `names`, as if `network` had a submodule of each name.

    The variables are those of such submodules, so that networks with and without the loop share their checkpoints: they
    are stacked for the loop, and statistics that it updates are taken apart again. Called inside `network`'s
    `@nn.compact` method, once the variables are there.

    Args:
      network: the module that owns the variables.
      block: a module of no parent that keeps the shape of `x`.
      names: of the submodules.
      x: the input of the first.
      drop_rates: the second argument of each; all None, or none.
    """
    owned = network.variables
    each = [{kind: owned[kind][name] for kind in owned if name in owned[kind]} for name in names]
    keys = jax.random.split(network.make_rng("dropout"), len(names)) if network.has_rng("dropout") else None
    rates = None if drop_rates[0] is None else jnp.array(drop_rates)
    updated = ["batch_stats"] if network.is_mutable_collection("batch_stats") else []

    def body(x: jax.Array, inputs: tuple) -> tuple[jax.Array, dict]:
        variables, key, rate = inputs
        return block.apply(variables, x, rate, rngs={} if key is None else {"dropout": key}, mutable=updated)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    x, updates = jax.lax.scan(body, x, (stacked, keys, rates), length=len(names))
    for kind, tree in updates.items():
        for index, name in enumerate(names):
            network.put_variable(kind, name, jax.tree.map(lambda leaf, index=index: leaf[index], tree))
    return x


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
