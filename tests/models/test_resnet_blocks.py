import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.resnet import FixupBlock, PostActivationBlock, PreActivationBlock, basic, bottleneck
from tests.models.test_layers import make_layers, pictures

KINDS = (PostActivationBlock, PreActivationBlock, FixupBlock)


def make_block(kind=PostActivationBlock, stride=1, residual=basic, width=8, train=False, blur_pool=False, **settings):
    defaults = {
        "shortcut": "projection",
        "zero_init_residual": False,
        "squeeze_excitation": None,
        "residual_scale": None,
        "dropout": 0.0,
        "num_blocks": 16,
    }
    layers = make_layers(train=train, blur_pool=blur_pool)
    return kind(layers=layers, convolutions=residual(width, stride), **(defaults | settings))


def outputs(block, images):
    """Of the submodules, by their names."""
    _, seen = block.init_with_output(jax.random.key(0), images, capture_intermediates=True, mutable=True)
    return {name: tree["__call__"][0] for name, tree in seen["intermediates"].items() if name != "__call__"}


@pytest.mark.parametrize("kind", [PostActivationBlock, PreActivationBlock])
@pytest.mark.parametrize("residual", [basic, bottleneck])
@pytest.mark.parametrize("how", [{"zero_init_residual": True}, {"residual_scale": 0.0}])
def test_zero_init_and_skip_init_make_a_block_the_identity(kind, residual, how):
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, residual(8, 1)[-1].features))
    output, variables = make_block(kind, residual=residual, **how).init_with_output(jax.random.key(1), images)
    np.testing.assert_array_equal(output, images)
    zeros = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim != 1 and not leaf.any()]
    ones = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 1 and leaf.all()]
    if "residual_scale" in how or kind is PreActivationBlock:  # A scalar, or the last kernel.
        assert (len(zeros), len(ones)) == (1, len(residual(8, 1)))
    else:  # The scale of the last norm.
        assert (len(zeros), len(ones)) == (0, len(residual(8, 1)) - 1)


def test_the_gradient_reaches_the_factor_of_skip_init_though_it_is_zero():
    block, images = make_block(residual_scale=0.0), pictures(2, 6, 6, 8)
    variables = block.init(jax.random.key(0), images)
    gradients = jax.grad(lambda v: jnp.sum(block.apply(v, images) ** 2))(variables)["params"]
    assert float(jnp.abs(gradients["residual_scale"])) > 0.1
    assert not gradients["conv1"]["kernel"].any()


def test_fixup_starts_as_the_identity_with_small_kernels_and_no_norm():
    """Section 3 of the paper: of 16 blocks of two convolutions, the first kernel is 16 ** (-1 / 2) of He's."""
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 64))
    output, variables = make_block(FixupBlock, width=64).init_with_output(jax.random.key(1), images)
    np.testing.assert_array_equal(output, images)
    assert variables.keys() == {"params"}
    kernel = variables["params"]["conv1"]["kernel"]
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 64)) / 4, rel=0.02)
    assert {leaf.ndim for leaf in jax.tree.leaves(variables)} == {0, 4}


def test_fixup_of_three_convolutions_takes_the_fourth_root():
    variables = make_block(FixupBlock, residual=bottleneck, width=64).init(jax.random.key(1), pictures(1, 4, 4, 256))
    kernel = variables["params"]["conv2"]["kernel"]
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 64)) / 2, rel=0.02)


def test_post_activation_ends_in_one_and_pre_activation_does_not():
    images = -jax.random.uniform(jax.random.key(0), (2, 6, 6, 8))
    for kind, expected in ((PostActivationBlock, 0 * images), (PreActivationBlock, images)):
        block = make_block(kind, zero_init_residual=True)
        np.testing.assert_array_equal(block.init_with_output(jax.random.key(1), images)[0], expected)


def test_pre_activation_projects_the_activated_input():
    """He et al. 2016: where the shape changes, norm and activation come before the shortcut as well."""
    images = pictures(2, 6, 6, 4)
    seen = outputs(make_block(PreActivationBlock, stride=2), images)
    kernel = make_block(PreActivationBlock, stride=2).init(jax.random.key(0), images)["params"]["shortcut_conv"][
        "kernel"
    ]
    activated = jnp.maximum(seen["norm1"], 0)[:, ::2, ::2]
    np.testing.assert_allclose(
        seen["shortcut_conv"], jnp.einsum("bhwi,io->bhwo", activated, kernel[0, 0]), rtol=1e-4, atol=1e-5
    )


def test_option_a_strides_and_pads_with_zero_channels_on_both_sides():
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 4))
    block = make_block(stride=2, shortcut="pad", zero_init_residual=True)
    output, variables = block.init_with_output(jax.random.key(1), images)
    np.testing.assert_array_equal(output[..., 2:6], images[:, ::2, ::2])
    assert not output[..., :2].any()
    assert not output[..., 6:].any()
    assert not any("shortcut" in name for name in variables["params"])


def test_option_a_blurs_before_it_strides():
    checkerboard = jnp.broadcast_to(jnp.indices((8, 8)).sum(0)[None, :, :, None] % 2 * 1.0, (1, 8, 8, 4))
    block = make_block(stride=2, shortcut="pad", zero_init_residual=True, blur_pool=True)
    output, _ = block.init_with_output(jax.random.key(1), checkerboard)
    np.testing.assert_allclose(output[..., 2:6], 0.5, atol=1e-6)


def test_bottleneck_strides_in_its_3x3():
    """Version 1.5; the original paper's code strides in the first 1x1."""
    seen = jax.eval_shape(lambda: outputs(make_block(stride=2, residual=bottleneck), jnp.zeros((1, 6, 6, 4))))
    sizes = {name: seen[name].shape[1:] for name in ("conv1", "conv2", "conv3")}
    assert sizes == {"conv1": (6, 6, 8), "conv2": (3, 3, 8), "conv3": (3, 3, 32)}


def test_blur_pool_takes_the_stride_after_the_activation_and_before_the_projection():
    block = make_block(stride=2, residual=bottleneck, blur_pool=True)
    seen = jax.eval_shape(lambda: outputs(block, jnp.zeros((1, 6, 6, 4))))
    at_half_size = {name for name, value in seen.items() if value.shape[1] == 3}
    assert at_half_size == {"dropout", "conv3", "norm3", "shortcut_conv", "shortcut_norm"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", [basic, bottleneck])
def test_shortcut_is_the_identity_where_nothing_changes(kind, residual):
    images = jnp.zeros((1, 6, 6, residual(8, 1)[-1].features))
    variables = jax.eval_shape(make_block(kind, residual=residual).init, jax.random.key(0), images)
    assert not any("shortcut" in name for name in variables["params"])


@pytest.mark.parametrize("kind", [PostActivationBlock, PreActivationBlock])
def test_stochastic_depth_drops_whole_residuals_and_keeps_the_expected_value(kind):
    """In training F is not there for an example, or it is divided by the probability that it is."""
    image = 10 + jax.random.uniform(jax.random.key(0), (1, 2, 2, 8))  # So large that no last activation cuts F.
    images = jnp.broadcast_to(image, (1000, 2, 2, 8))  # Of equal examples, so that all have the same F.
    block = make_block(kind, train=True)
    variables = block.init(jax.random.key(1), images)

    @jax.jit
    def run(drop_rate):
        return block.apply(variables, images, drop_rate, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"])[
            0
        ]

    residual, dropped = run(None) - images, run(0.25) - images
    is_dropped = np.asarray(jnp.all(dropped == 0, axis=(1, 2, 3)))
    assert float(jnp.abs(residual).mean()) > 0.1
    assert is_dropped.mean() == pytest.approx(0.25, abs=0.04)
    np.testing.assert_allclose(dropped[~is_dropped], residual[~is_dropped] / 0.75, rtol=1e-3, atol=1e-4)


def test_stochastic_depth_is_off_in_evaluation():
    block, images = make_block(), pictures(2, 4, 4, 8)
    variables = block.init(jax.random.key(0), images)
    np.testing.assert_array_equal(block.apply(variables, images, 0.9), block.apply(variables, images))


def test_dropout_stands_before_the_last_convolution_of_a_wide_block():
    """What follows it is linear there, so that the mean over many masks is what evaluation gives."""
    images = pictures(2, 4, 4, 8)
    block, evaluated = (
        make_block(PreActivationBlock, train=True, dropout=0.4),
        make_block(PreActivationBlock, train=True),
    )
    variables = evaluated.init(jax.random.key(0), images)

    def run(block, key):
        return block.apply(variables, images, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    masked = jax.jit(jax.vmap(lambda key: run(block, key)))(jax.random.split(jax.random.key(1), 4000))
    assert float(masked.std(axis=0).mean()) > 0.1
    np.testing.assert_allclose(masked.mean(axis=0), run(evaluated, jax.random.key(0)), atol=0.1)
