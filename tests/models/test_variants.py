"""The named variants, compared with published numbers."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.models.flops import cost
from resnet_jax.models.variants import VARIANTS

# Exact parameter counts, with 1,000 classes for ImageNet and 10 for CIFAR-10. Where papers round them, they were
# counted in the model of the authors or of a library.
TORCHVISION = {  # `num_params` of torchvision's weights.
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
}
# Counted in timm 1.0.31, where BiT is called resnetv2_50x1_bit, ..., and seresnet18 and 34 have the prefix legacy_.
TIMM = {
    "resnext101_32x4d": 44_177_704,
    "resnetv2_18": 11_687_720,
    "resnetv2_34": 21_795_880,
    "resnetv2_50": 25_549_352,
    "resnetv2_101": 44_541_480,
    "resnetv2_152": 60_185_128,
    "resnet18d": 11_708_744,
    "resnet34d": 21_816_904,
    "resnet50d": 25_576_264,
    "resnet101d": 44_568_392,
    "resnet152d": 60_212_040,
    "seresnet18": 11_778_592,
    "seresnet34": 21_958_868,
    "seresnet50": 28_088_024,
    "seresnet101": 49_326_872,
    "seresnet152": 66_821_848,
    "seresnext50_32x4d": 27_559_896,
    "seresnext101_32x4d": 48_955_416,
    "bit_r50x1": 25_549_352,
    "bit_r50x3": 217_319_080,
    "bit_r101x1": 44_541_480,
    "bit_r101x3": 387_934_888,
    "bit_r152x2": 236_335_208,
    "bit_r152x4": 936_533_224,
}
# Asserted in the code of pytorchcv 0.0.74. Those of WRN-16-8, 40-2, 40-4 and ResNeXt-29 8x64d were counted in it.
PYTORCHCV = {
    "resnetv2_110": 1_730_522,
    "resnetv2_164": 1_703_258,
    "resnetv2_1001": 10_327_706,
    "wide_resnet16_4": 2_748_890,
    "wide_resnet16_8": 10_961_370,
    "wide_resnet28_10": 36_479_194,
    "wide_resnet40_2": 2_243_546,
    "wide_resnet40_4": 8_949_210,
    "resnext29_8x64d": 34_426_698,
    "resnext29_16x64d": 68_155_210,
}
AUTHORS = {
    # Zhang 2019: anti-aliasing adds no parameters (README of adobe/antialiased-cnns).
    "antialiased_resnet18": 11_689_512,
    "antialiased_resnet34": 21_797_672,
    "antialiased_resnet50": 25_557_032,
    "antialiased_resnet101": 44_549_160,
    # Counted in the models of hongyi-zhang/Fixup.
    "fixup_resnet50": 25_504_026,
    "fixup_resnet110": 1_720_138,
    # Counted in akamaster/pytorch_resnet_cifar10; He et al. 2015, table 6, gives rounded numbers.
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet1202": 19_421_274,
    # Computed from the layers in the code of KellerJordan/cifar10-airbench. Our heads have a bias in addition.
    "airbench94": 1_972_792 + 10,
    "airbench94_plain": 1_972_792 + 10,
    "airbench96": 12_721_208 + 10,
}
PARAMETERS = TORCHVISION | TIMM | PYTORCHCV | AUTHORS
# Billions at 224 x 224: `_ops` of torchvision's weights.
MULTIPLY_ADDS = {
    "resnet18": 1.814,
    "resnet50": 4.089,
    "resnet152": 11.514,
    "wide_resnet101_2": 22.753,
    "resnext50_32x4d": 4.230,
    "resnext101_64x4d": 15.460,
}


@functools.cache
def variant_cost(name):
    variant = VARIANTS[name]
    return cost(variant.make(num_classes=variant.num_classes), (variant.image_size, variant.image_size, 3))


def test_every_variant_has_a_published_parameter_count():
    assert PARAMETERS.keys() == VARIANTS.keys() - {"tiny"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_equals_the_published_one(name):
    assert variant_cost(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds_equal_the_published_ones(name):
    assert variant_cost(name).multiply_adds / 1e9 == pytest.approx(MULTIPLY_ADDS[name], abs=0.0006)


@pytest.mark.parametrize("name", PARAMETERS)
def test_variant_names_its_paper_and_sources(name):
    variant = VARIANTS[name]
    assert re.search(r" 20\d\d, .*arXiv:\d{4}\.\d{5}", variant.paper)
    assert (variant.top1 is None) == (not variant.top1_source)
    assert variant.top1 is None or 0.69 < variant.top1 < 0.97
    assert (variant.dataset, variant.num_classes, variant.image_size) in (
        ("ImageNet-1k", 1000, 224),
        ("CIFAR-10", 10, 32),
    )


def count_parameters(name, **settings):
    model = VARIANTS[name].make(num_classes=10, **settings)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_projection_shortcuts_add_only_their_projections():
    """There are two 1x1 projections, 16 to 32 and 32 to 64 channels, each with the scale and bias of a norm."""
    added = count_parameters("resnet20", shortcut="projection") - count_parameters("resnet20")
    assert added == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_cifar_stem_has_a_smaller_convolution():
    """The convolution is 3x3 instead of 7x7, from 3 channels to 64."""
    assert count_parameters("resnet18") - count_parameters("resnet18", stem="cifar") == (49 - 9) * 3 * 64
