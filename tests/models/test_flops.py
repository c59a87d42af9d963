import jax
import jax.numpy as jnp
import pytest

from resnet_jax.models.factory import create_model
from resnet_jax.models.flops import cost
from resnet_jax.models.variants import VARIANTS

# One of each family; the others follow with the slow tests.
FAST = ("resnet18", "seresnet50", "resnet50d", "antialiased_resnet18", "bit_r50x1", "resnet20", "wide_resnet16_4")
# Outside of their loop these would take minutes, and inside XLA counts a block once.
DEEP = ("resnet1202", "resnetv2_1001")
# BatchNorm, which is no multiply-add, is 3 % of the work of thin bottlenecks: here XLA sees a bias in its place.
THIN = ("resnetv2_164", "resnetv2_1001")


def flops_of_xla(name, monkeypatch, **settings):
    """Of one picture in a batch of 16, with borders made beforehand: XLA leaves out what hangs over them."""
    convolve = jax.lax.conv_general_dilated

    def with_border(images, kernel, strides, padding, **settings):
        bordered = jnp.pad(images, [(0, 0), *padding, (0, 0)])
        return convolve(bordered, kernel, strides, [(0, 0), (0, 0)], **settings)

    variant = VARIANTS[name]
    settings |= {"norm": "scalar_bias"} if name in THIN else {}
    model = create_model(name, variant.num_classes, scan_blocks=False, **settings)
    images = jax.ShapeDtypeStruct((16, variant.image_size, variant.image_size, 3), jnp.float32)
    with monkeypatch.context() as patch:
        patch.setattr(jax.lax, "conv_general_dilated", with_border)
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
        program = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
        return program.lower(variables, images).cost_analysis()["flops"] / 16


def multiply_adds(name):
    variant = VARIANTS[name]
    return cost(create_model(name, variant.num_classes), (variant.image_size, variant.image_size, 3)).multiply_adds


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name not in DEEP],
)
def test_multiply_adds_agree_with_the_cost_analysis_of_xla(name, monkeypatch):
    """Which counts each as two, and the rest of the work besides."""
    assert 0 < flops_of_xla(name, monkeypatch) / (2 * multiply_adds(name)) - 1 < 0.02


@pytest.mark.parametrize("name", DEEP)
def test_multiply_adds_of_very_deep_networks_agree_with_xla_too(name, monkeypatch):
    """Its count grows with each block as with the one before."""
    three, two = (flops_of_xla(name, monkeypatch, stage_sizes=(size,) * 3) for size in (3, 2))
    (size, _, _) = create_model(name, 10).stage_sizes
    assert 0 < (two + (size - 2) * (three - two)) / (2 * multiply_adds(name)) - 1 < 0.02


@pytest.mark.parametrize("name", ["resnet50", "resnet32", "bit_r50x1", "fixup_resnet110"])
def test_parameters_are_those_of_a_network_of_full_depth(name):
    model, images = create_model(name, 10), jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert cost(model, (32, 32, 3)).parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_cost_on_numbers_worked_out_by_hand():
    """Convolutions of 8x8 to 4x4 pixels; option A costs nothing."""
    stem, stage1 = 64 * 9 * 1 * 8, 2 * 64 * 9 * 8 * 8
    stage2 = 16 * 9 * 8 * 16 + 16 * 9 * 16 * 16
    assert cost(create_model("tiny", 10), (8, 8, 1)).multiply_adds == stem + stage1 + stage2 + 16 * 10
