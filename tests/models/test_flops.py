import jax
import jax.numpy as jnp
import pytest

from resnet_jax.models.factory import create_model
from resnet_jax.models.flops import cost
from resnet_jax.models.variants import VARIANTS

# Variants that only repeat the blocks of others.
REPEATING = [name for name in VARIANTS if any(depth in name for depth in ("101", "110", "152", "56", "1202", "1001"))]
# Quick models of several families; the other variants are tested with the slow tests.
FAST = ("resnet18", "antialiased_resnet18", "resnet20", "wide_resnet16_4")
# Models with so many blocks that XLA takes minutes to compile them unrolled. In a loop, XLA counts a block only once.
DEEP = ("resnet1202", "resnetv2_1001")
# Models with thin bottlenecks, where BatchNorm is 3 % of XLA's FLOPs but no multiply-add. A bias takes its place here.
THIN = ("resnetv2_164", "resnetv2_1001")


def xla_flops(name, monkeypatch, **settings):
    """Return XLA's FLOPs per image in a batch of 16, padded explicitly because XLA does not count implicit padding."""
    convolve = jax.lax.conv_general_dilated

    def convolve_padded(images, kernel, strides, padding, **settings):
        padded = jnp.pad(images, [(0, 0), *padding, (0, 0)])
        return convolve(padded, kernel, strides, [(0, 0), (0, 0)], **settings)

    variant = VARIANTS[name]
    settings |= {"norm": "scalar_bias"} if name in THIN else {}
    settings["activation"] = "relu"  # GELU would be 2 % of the FLOPs of airbench94.
    model = create_model(name, variant.num_classes, scan_blocks=False, **settings)
    images = jax.ShapeDtypeStruct((16, variant.image_size, variant.image_size, 3), jnp.float32)
    with monkeypatch.context() as patch:
        patch.setattr(jax.lax, "conv_general_dilated", convolve_padded)
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
        program = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
        return program.lower(variables, images).cost_analysis()["flops"] / 16


def multiply_adds(name):
    variant = VARIANTS[name]
    return cost(create_model(name, variant.num_classes), (variant.image_size, variant.image_size, 3)).multiply_adds


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in VARIANTS
        if name not in REPEATING
    ],
)
def test_multiply_adds_agree_with_xla_cost_analysis(name, monkeypatch):
    """XLA counts a multiply-add as two FLOPs, and counts all other work as well."""
    assert 0 < xla_flops(name, monkeypatch) / (2 * multiply_adds(name)) - 1 < 0.02


@pytest.mark.parametrize("name", DEEP)
def test_multiply_adds_of_very_deep_models_agree_with_xla_cost_analysis(name, monkeypatch):
    """Extrapolate XLA's count from two and three blocks per stage: each further block adds the same."""
    three, two = (xla_flops(name, monkeypatch, stage_sizes=(size,) * 3) for size in (3, 2))
    (size, _, _) = create_model(name, 10).stage_sizes
    assert 0 < (two + (size - 2) * (three - two)) / (2 * multiply_adds(name)) - 1 < 0.02


@pytest.mark.parametrize("name", ["resnet50", "resnet32", "bit_r50x1", "fixup_resnet110"])
def test_parameter_count_is_that_of_the_full_model(name):
    model = create_model(name, 10)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert cost(model, (32, 32, 3)).parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_cost_matches_hand_computed_values():
    """Stem and stage 1 have 8x8 output pixels, and stage 2 has 4x4. The shortcut (option A) costs nothing."""
    stem, stage1 = 64 * 9 * 1 * 8, 2 * 64 * 9 * 8 * 8
    stage2 = 16 * 9 * 8 * 16 + 16 * 9 * 16 * 16
    assert cost(create_model("tiny", 10), (8, 8, 1)).multiply_adds == stem + stage1 + stage2 + 16 * 10
