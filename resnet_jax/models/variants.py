"""The table of named models, each with its paper and published accuracy.

To add a variant, add a row to `VARIANTS`. New kinds of blocks and new stems go into `resnet.py`: a block is a subclass
of `ResidualBlock`, a stem a function in `STEMS`.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn

from resnet_jax.models.resnet import (
    FixupBlock,
    MaxPoolBlock,
    PlainMaxPoolBlock,
    PreActivationBlock,
    ResNet,
    basic,
    bottleneck,
    three_convs,
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of `VARIANTS`.

    Attributes:
      make: `ResNet` with every attribute set except `num_classes`.
      paper: the paper that proposed the model.
      dataset: the dataset that the model was proposed for.
      image_size: height and width in pixels of the images of that dataset.
      num_classes: the number of classes of that dataset.
      top1: published accuracy in [0, 1] on the validation split of ImageNet-1k or the test split of another dataset, of
        a single model and a single view; None: we know of no such number.
      top1_source: who published `top1`, and under which unusual conditions.

    Example:
      >>> variant = VARIANTS["resnet20"]
      >>> variant.dataset, variant.image_size, variant.top1
      ('CIFAR-10', 32, 0.9125)
      >>> variant.make(num_classes=10).stage_sizes
      (3, 3, 3)
    """

    make: Callable[..., ResNet]
    paper: str
    dataset: str
    image_size: int
    num_classes: int
    top1: float | None = None
    top1_source: str = ""


def _imagenet(paper: str, top1_percent: float | None, source: str, *settings: dict, **overrides) -> Variant:
    """Return a row for ImageNet. Later `settings` override earlier ones, and `overrides` come last."""
    return _row((paper, "ImageNet-1k", 224, 1000), top1_percent, source, *settings, overrides)


def _cifar(paper: str, top1_percent: float | None, source: str, *settings: dict, **overrides) -> Variant:
    """Return a row for CIFAR-10. By default, stage 1 has full resolution and width 16 (He et al. 2015, section 4.2)."""
    return _row((paper, "CIFAR-10", 32, 10), top1_percent, source, {"stem": "cifar", "width": 16}, *settings, overrides)


def _row(
    paper_and_data: tuple[str, str, int, int], top1_percent: float | None, source: str, *settings: dict
) -> Variant:
    """Return a row with these `settings`, of which later ones override earlier ones."""
    attributes = {name: value for setting in settings for name, value in setting.items()}
    top1 = None if top1_percent is None else round(top1_percent / 100, 5)
    return Variant(functools.partial(ResNet, **attributes), *paper_and_data, top1, source)


RESNET = "He et al. 2015, Deep Residual Learning, arXiv:1512.03385"
V1_5 = f"{RESNET}; v1.5: Goyal et al. 2017, arXiv:1706.02677"
V2 = "He et al. 2016, Identity Mappings, arXiv:1603.05027"
WIDE = "Zagoruyko & Komodakis 2016, Wide Residual Networks, arXiv:1605.07146"
RESNEXT = "Xie et al. 2016, Aggregated Residual Transformations, arXiv:1611.05431"
SE = "Hu et al. 2017, Squeeze-and-Excitation Networks, arXiv:1709.01507"
RESNET_D = "He et al. 2018, Bag of Tricks, arXiv:1812.01187"
FIXUP = "Zhang et al. 2019, Fixup Initialization, arXiv:1901.09321"
BLUR = "Zhang 2019, Making Convolutional Networks Shift-Invariant Again, arXiv:1904.11486"
AIRBENCH = "Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498"
BIT = "Kolesnikov et al. 2019, Big Transfer, arXiv:1912.11370"

TORCHVISION = "torchvision, IMAGENET1K_V1"
PAPER = "the paper"
STRIDES_IN_1X1 = "the paper, with the stride in the first 1x1 convolution"
TENSORPACK = "tensorpack, at commit 02f41b2"
FILTER_4 = "the authors' code, filter 4, from scratch"

# He et al. 2015, table 1.
_18 = {"stage_sizes": (2, 2, 2, 2), "residual": basic}
_34 = {"stage_sizes": (3, 4, 6, 3), "residual": basic}
_50 = {"stage_sizes": (3, 4, 6, 3), "residual": bottleneck}
_101 = {"stage_sizes": (3, 4, 23, 3), "residual": bottleneck}
_152 = {"stage_sizes": (3, 8, 36, 3), "residual": bottleneck}

# Settings that several variants share.
_pre_activation = {"block": PreActivationBlock}
_deep = {"stem": "deep", "shortcut": "average_pool"}
_squeeze = {"squeeze_excitation": 16}
_blur = {"blur_pool": True}
_bit = _pre_activation | {
    "stem": "bit",
    "norm": "group_norm",
    "weight_standardization": True,
    "head_init": nn.initializers.zeros,
}
_airbench = {"block": MaxPoolBlock, "stem": "whitening", "activation": "gelu", "stage_sizes": (1, 1, 1)}
_fixup = {"block": FixupBlock, "norm": "scalar_bias", "head_init": nn.initializers.zeros}


def _wide(depth: int, factor: int) -> dict:
    """Return the settings of a Wide ResNet: 6n + 4 layers, n blocks per stage (Zagoruyko & Komodakis 2016, table 1)."""
    size = (depth - 4) // 6
    return _pre_activation | {"stage_sizes": (size, size, size), "width": 16 * factor, "stem_width": 16}


def _groups(groups: int, group_width: int) -> dict:
    """Return the settings of bottlenecks with a grouped 3x3 convolution (Xie et al. 2016, table 1).

    Each group has `group_width` channels at width 64, and proportionally more at larger widths.
    """
    return {"residual": functools.partial(bottleneck, groups=groups, group_width=group_width)}


def _stages(size: int) -> dict:
    """Return the settings of the models for CIFAR: three stages of `size` blocks each."""
    return {"stage_sizes": (size, size, size)}


VARIANTS: dict[str, Variant] = {
    "resnet18": _imagenet(RESNET, 69.758, TORCHVISION, _18),
    "resnet34": _imagenet(RESNET, 73.314, TORCHVISION, _34),
    "resnet50": _imagenet(V1_5, 76.130, TORCHVISION, _50),
    "resnet101": _imagenet(V1_5, 77.374, TORCHVISION, _101),
    "resnet152": _imagenet(V1_5, 78.312, TORCHVISION, _152),
    "resnetv2_18": _imagenet(V2, 70.44, TENSORPACK, _18, _pre_activation),
    "resnetv2_34": _imagenet(V2, 73.50, TENSORPACK, _34, _pre_activation),
    "resnetv2_50": _imagenet(V2, 76.28, TENSORPACK, _50, _pre_activation),
    "resnetv2_101": _imagenet(V2, 77.47, TENSORPACK, _101, _pre_activation),
    "resnetv2_152": _imagenet(
        V2, 78.9, "the paper, at 320 pixels, with the stride in the first 1x1 convolution", _152, _pre_activation
    ),
    "wide_resnet50_2": _imagenet(WIDE, 78.1, PAPER, _50, _groups(1, 128)),
    "wide_resnet101_2": _imagenet(WIDE, 78.848, TORCHVISION, _101, _groups(1, 128)),
    "resnext50_32x4d": _imagenet(RESNEXT, 77.8, PAPER, _50, _groups(32, 4)),
    "resnext101_32x4d": _imagenet(RESNEXT, 78.8, PAPER, _101, _groups(32, 4)),
    "resnext101_32x8d": _imagenet(RESNEXT, 79.312, TORCHVISION, _101, _groups(32, 8)),
    "resnext101_64x4d": _imagenet(RESNEXT, 79.6, PAPER, _101, _groups(64, 4)),
    "seresnet18": _imagenet(SE, 71.766, "timm, legacy_seresnet18", _18, _squeeze),
    "seresnet34": _imagenet(SE, 74.808, "timm, legacy_seresnet34", _34, _squeeze),
    "seresnet50": _imagenet(SE, 76.71, STRIDES_IN_1X1, _50, _squeeze),
    "seresnet101": _imagenet(SE, 77.62, STRIDES_IN_1X1, _101, _squeeze),
    "seresnet152": _imagenet(SE, 78.43, STRIDES_IN_1X1, _152, _squeeze),
    "seresnext50_32x4d": _imagenet(SE, 78.90, PAPER, _50, _groups(32, 4), _squeeze),
    "seresnext101_32x4d": _imagenet(SE, 79.30, PAPER, _101, _groups(32, 4), _squeeze),
    "resnet18d": _imagenet(RESNET_D, 73.794, "timm, ra2_in1k, at 288 pixels", _18, _deep),
    "resnet34d": _imagenet(RESNET_D, 78.436, "timm, ra2_in1k, at 288 pixels", _34, _deep),
    "resnet50d": _imagenet(RESNET_D, 77.16, PAPER, _50, _deep),
    "resnet101d": _imagenet(RESNET_D, 80.426, "timm, gluon_in1k", _101, _deep),
    "resnet152d": _imagenet(RESNET_D, 80.476, "timm, gluon_in1k", _152, _deep),
    "antialiased_resnet18": _imagenet(BLUR, 71.48, FILTER_4, _18, _blur),
    "antialiased_resnet34": _imagenet(BLUR, 74.38, FILTER_4, _34, _blur),
    "antialiased_resnet50": _imagenet(BLUR, 77.23, FILTER_4, _50, _blur),
    "antialiased_resnet101": _imagenet(BLUR, 78.22, FILTER_4, _101, _blur),
    "bit_r50x1": _imagenet(BIT, 76.0, "the paper, trained on ImageNet-1k only", _50, _bit),
    "bit_r50x3": _imagenet(BIT, 84.02, "timm, pretrained on ImageNet-21k, at 448 pixels", _50, _bit, width=192),
    "bit_r101x1": _imagenet(BIT, 82.342, "timm, pretrained on ImageNet-21k, at 448 pixels", _101, _bit),
    "bit_r101x3": _imagenet(BIT, 84.438, "timm, pretrained on ImageNet-21k, at 448 pixels", _101, _bit, width=192),
    "bit_r152x2": _imagenet(BIT, 84.51, "timm, pretrained on ImageNet-21k, at 448 pixels", _152, _bit, width=128),
    "bit_r152x4": _imagenet(BIT, 81.3, "the paper, trained on ImageNet-1k only, at 480 pixels", _152, _bit, width=256),
    "fixup_resnet50": _imagenet(FIXUP, 76.0, "the authors' README, with mixup", _50, _fixup),
    "resnet20": _cifar(RESNET, 91.25, PAPER, _stages(3), shortcut="pad"),
    "resnet32": _cifar(RESNET, 92.49, PAPER, _stages(5), shortcut="pad"),
    "resnet44": _cifar(RESNET, 92.83, PAPER, _stages(7), shortcut="pad"),
    "resnet56": _cifar(RESNET, 93.03, PAPER, _stages(9), shortcut="pad"),
    "resnet110": _cifar(RESNET, 93.57, "the paper, best of 5", _stages(18), shortcut="pad"),
    "resnet1202": _cifar(RESNET, 92.07, PAPER, _stages(200), shortcut="pad", scan_blocks=True),
    "resnetv2_110": _cifar(V2, 93.63, PAPER, _stages(18), _pre_activation),
    "resnetv2_164": _cifar(V2, 94.54, STRIDES_IN_1X1, _stages(18), _pre_activation, residual=bottleneck),
    "resnetv2_1001": _cifar(
        V2, 95.08, STRIDES_IN_1X1, _stages(111), _pre_activation, residual=bottleneck, scan_blocks=True
    ),
    "wide_resnet16_4": _cifar(WIDE, 94.98, PAPER, _wide(16, 4)),
    "wide_resnet16_8": _cifar(WIDE, 95.73, PAPER, _wide(16, 8)),
    "wide_resnet28_10": _cifar(WIDE, 96.00, PAPER, _wide(28, 10)),
    "wide_resnet40_2": _cifar(WIDE, 94.67, "the paper, with ZCA whitening", _wide(40, 2)),
    "wide_resnet40_4": _cifar(WIDE, 95.47, PAPER, _wide(40, 4)),
    "resnext29_8x64d": _cifar(RESNEXT, 96.35, PAPER, _stages(3), _groups(8, 64), width=64),
    "resnext29_16x64d": _cifar(RESNEXT, 96.42, PAPER, _stages(3), _groups(16, 64), width=64),
    "fixup_resnet110": _cifar(FIXUP, None, "", _stages(18), _fixup, shortcut="pad"),
    # With the shortcuts of airbench96. The airbench94 of Jordan 2024 is "airbench94_plain".
    "airbench94": _cifar(AIRBENCH, None, "", _airbench, residual=basic, stage_widths=(64, 256, 256)),
    "airbench94_plain": _cifar(
        AIRBENCH, None, "", _airbench, residual=basic, stage_widths=(64, 256, 256), block=PlainMaxPoolBlock
    ),
    "airbench96": _cifar(AIRBENCH, None, "", _airbench, residual=three_convs, stage_widths=(128, 512, 512)),
}
