import jax
import jax.numpy as jnp
import pytest

from resnet_jax.models.cost import cost
from resnet_jax.models.creation import create_model
from resnet_jax.models.variants import VARIANTS

# One of each family; the others follow with the slow tests. ResNet-1202 and 1001 take minutes unless in a loop, whose
# body XLA counts once; they are counted like the others.
FAST = (
    "resnet18",
    "seresnet50",
    "resnet50d",
    "antialiased_resnet18",
    "bit_r50x1",
    "resnet20",
    "wide_resnet16_4",
    "tiny",
)
DEEP = ("resnet1202", "resnetv2_1001")
# Thin and deep: what is not multiply-adds, BatchNorm and the like, is 3 % of XLA's count.
THIN = ("resnetv2_164",)


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name not in DEEP],
)
def test_multiply_adds_agree_with_the_cost_analysis_of_xla(name, monkeypatch):
    """Which counts a multiply-add as two, and leaves out what hangs over the border unless the border is there."""
    convolve = jax.lax.conv_general_dilated

    def with_border(images, kernel, strides, padding, **settings):
        bordered = jnp.pad(images, [(0, 0), *padding, (0, 0)])
        return convolve(bordered, kernel, strides, [(0, 0), (0, 0)], **settings)

    monkeypatch.setattr(jax.lax, "conv_general_dilated", with_border)
    variant = VARIANTS[name]
    model = create_model(name, variant.num_classes, scan_blocks=False)
    images = jax.ShapeDtypeStruct((16, variant.image_size, variant.image_size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    program = jax.jit(lambda variables, images: model.apply(variables, images, train=False)).lower(variables, images)
    counted = cost(model, images.shape[1:]).multiply_adds
    excess = program.cost_analysis()["flops"] / (2 * 16 * counted) - 1
    assert 0 < excess < (0.03 if name in THIN else 0.02)


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
