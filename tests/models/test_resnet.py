import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.models import resnet
from resnet_jax.models.factory import create_model
from resnet_jax.models.resnet import (
    FixupBlock,
    MaxPoolBlock,
    PlainMaxPoolBlock,
    PostActivationBlock,
    PreActivationBlock,
    ResidualBlock,
    basic,
    bottleneck,
    three_convs,
)
from tests.models.test_layers import Wrapper, make_layers, random_images

# ---- Stems -----------------------------------------------------------------------------------------------------------


def make_stem(name, activate=True, **settings):
    return Wrapper(make_layers(**settings), lambda layers, x: resnet.STEMS[name](x, 8, layers, activate))


@pytest.mark.parametrize("name", resnet.STEMS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_stems_for_small_images_keep_the_size_and_others_divide_it_by_four(name, size):
    output, _ = jax.eval_shape(make_stem(name).init_with_output, jax.random.key(0), jnp.zeros((1, *size, 3)))
    divided = tuple(math.ceil(side / 4) for side in size)
    shapes = {"cifar": (*size, 8), "whitening": (size[0] - 1, size[1] - 1, 24)}
    assert output.shape == (1, *shapes.get(name, (*divided, 8)))


def test_deep_stem_has_half_the_width_before_its_last_convolution():
    params = jax.eval_shape(make_stem("deep").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    kernels = {name: tree["kernel"].shape for name, tree in params.items() if "conv" in name}
    assert kernels == {"stem_conv1": (3, 3, 3, 4), "stem_conv2": (3, 3, 4, 4), "stem_conv3": (3, 3, 4, 8)}
    assert params.keys() - kernels.keys() == {"stem_norm1", "stem_norm2", "stem_norm3"}


@pytest.mark.parametrize("name", ["imagenet", "cifar", "deep", "bit"])
def test_stem_without_activation_has_no_last_norm(name):
    plain, activated = (
        jax.eval_shape(make_stem(name, activate).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
        for activate in (False, True)
    )
    assert (activated.keys() - plain.keys()) == {"stem_norm3" if name == "deep" else "stem_norm"}


def test_bit_stem_pads_the_max_pool_with_zeros_and_the_imagenet_stem_does_not():
    images = -jnp.ones((1, 8, 8, 3))
    variables = {"params": {"stem_conv": {"kernel": jnp.ones((7, 7, 3, 8))}}}
    bit = make_stem("bit", activate=False).apply(variables, images)
    imagenet = make_stem("imagenet", activate=False).apply(variables, images)
    np.testing.assert_array_equal(bit[0, :, :, 0] == 0, [[True, True], [True, False]])
    assert (imagenet < 0).all()
    np.testing.assert_array_equal(bit[:, 1:, 1:], imagenet[:, 1:, 1:])


def test_max_pool_with_blur_weights_a_bright_pixel_equally_at_every_position():
    """The point of Zhang 2019: a strided max-pool without blur shows the pixel in one, two or four places."""

    def weights(blur):
        layers = make_layers(blur_pool=blur)
        dark = jnp.zeros((1, 16, 16, 1))
        return {float(layers.max_pool(dark.at[0, 6, 6 + x].set(1.0)).sum()) for x in (0, 1)}

    assert weights(blur=True) == {1.0}
    assert weights(blur=False) == {1.0, 2.0}


# ---- Blocks ----------------------------------------------------------------------------------------------------------

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


def submodule_outputs(block, images):
    """Return the outputs of the submodules by name."""
    _, captured = block.init_with_output(jax.random.key(0), images, capture_intermediates=True, mutable=True)
    return {name: tree["__call__"][0] for name, tree in captured["intermediates"].items() if name != "__call__"}


@pytest.mark.parametrize("kind", [PostActivationBlock, PreActivationBlock])
@pytest.mark.parametrize("residual", [basic, bottleneck])
@pytest.mark.parametrize("settings", [{"zero_init_residual": True}, {"residual_scale": 0.0}])
def test_block_starts_as_the_identity_with_zero_init_or_skip_init(kind, residual, settings):
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, residual(8, 1)[-1].features))
    output, variables = make_block(kind, residual=residual, **settings).init_with_output(jax.random.key(1), images)
    np.testing.assert_array_equal(output, images)
    zeros = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim != 1 and not leaf.any()]
    ones = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 1 and leaf.all()]
    if "residual_scale" in settings or kind is PreActivationBlock:  # The zero array is a scalar or the last kernel.
        assert (len(zeros), len(ones)) == (1, len(residual(8, 1)))
    else:  # The zero array is the scale of the last norm.
        assert (len(zeros), len(ones)) == (0, len(residual(8, 1)) - 1)


def test_skip_init_scale_has_a_gradient_although_it_is_zero():
    block = make_block(residual_scale=0.0)
    images = random_images(2, 6, 6, 8)
    variables = block.init(jax.random.key(0), images)
    gradients = jax.grad(lambda v: jnp.sum(block.apply(v, images) ** 2))(variables)["params"]
    assert float(jnp.abs(gradients["residual_scale"])) > 0.1
    assert not gradients["conv1"]["kernel"].any()


def test_fixup_block_starts_as_the_identity_with_small_kernels_and_no_norm():
    """Section 3 of the paper: with 16 blocks of two convolutions, the first kernel is He's times 16 ** (-1 / 2)."""
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 64))
    output, variables = make_block(FixupBlock, width=64).init_with_output(jax.random.key(1), images)
    np.testing.assert_array_equal(output, images)
    assert variables.keys() == {"params"}
    kernel = variables["params"]["conv1"]["kernel"]
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 64)) / 4, rel=0.02)
    assert {leaf.ndim for leaf in jax.tree.leaves(variables)} == {0, 4}


def test_fixup_block_of_three_convolutions_scales_by_the_fourth_root():
    variables = make_block(FixupBlock, residual=bottleneck, width=64).init(
        jax.random.key(1), random_images(1, 4, 4, 256)
    )
    kernel = variables["params"]["conv2"]["kernel"]
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 64)) / 2, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "residual", "added"),
    [(MaxPoolBlock, basic, 1), (MaxPoolBlock, three_convs, 1), (PlainMaxPoolBlock, basic, 0)],
)
def test_max_pool_block_adds_the_pooled_first_convolution_to_the_others(kind, residual, added):
    images = random_images(2, 7, 7, 4)
    block = make_block(kind, stride=2, residual=residual)
    output, _ = block.init_with_output(jax.random.key(0), images)
    outputs = submodule_outputs(block, images)
    first = nn.relu(outputs["norm1"])
    assert outputs["conv1"].shape == (2, 7, 7, 8)
    np.testing.assert_array_equal(
        outputs["norm1"], outputs["conv1"][:, :6, :6].reshape(2, 3, 2, 3, 2, 8).max((2, 4)) / np.sqrt(1 + 1e-5)
    )
    last = f"norm{len(residual(8, 2))}"
    np.testing.assert_allclose(output, nn.relu(outputs[last] + added * first), rtol=1e-6)


def test_max_pool_block_starts_with_convolutions_that_pass_on_their_inputs():
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 8))
    block = make_block(MaxPoolBlock, residual=three_convs, zero_init_residual=True)
    np.testing.assert_allclose(block.init_with_output(jax.random.key(1), images)[0], images, rtol=1e-4)


def test_post_activation_block_ends_with_relu_and_pre_activation_block_does_not():
    images = -jax.random.uniform(jax.random.key(0), (2, 6, 6, 8))
    for kind, expected in ((PostActivationBlock, 0 * images), (PreActivationBlock, images)):
        block = make_block(kind, zero_init_residual=True)
        np.testing.assert_array_equal(block.init_with_output(jax.random.key(1), images)[0], expected)


def test_pre_activation_block_projects_the_activated_input():
    """He et al. 2016: where the shape changes, norm and activation come before the shortcut as well."""
    images = random_images(2, 6, 6, 4)
    outputs = submodule_outputs(make_block(PreActivationBlock, stride=2), images)
    kernel = make_block(PreActivationBlock, stride=2).init(jax.random.key(0), images)["params"]["shortcut_conv"][
        "kernel"
    ]
    activated = jnp.maximum(outputs["norm1"], 0)[:, ::2, ::2]
    np.testing.assert_allclose(
        outputs["shortcut_conv"], jnp.einsum("bhwi,io->bhwo", activated, kernel[0, 0]), rtol=1e-4, atol=1e-5
    )


def test_pad_shortcut_strides_and_adds_zero_channels_on_both_sides():
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 4))
    block = make_block(stride=2, shortcut="pad", zero_init_residual=True)
    output, variables = block.init_with_output(jax.random.key(1), images)
    np.testing.assert_array_equal(output[..., 2:6], images[:, ::2, ::2])
    assert not output[..., :2].any()
    assert not output[..., 6:].any()
    assert not any("shortcut" in name for name in variables["params"])


@pytest.mark.slow
def test_pad_shortcut_blurs_before_it_strides():
    checkerboard = jnp.broadcast_to(jnp.indices((8, 8)).sum(0)[None, :, :, None] % 2 * 1.0, (1, 8, 8, 4))
    block = make_block(stride=2, shortcut="pad", zero_init_residual=True, blur_pool=True)
    output, _ = block.init_with_output(jax.random.key(1), checkerboard)
    np.testing.assert_allclose(output[..., 2:6], 0.5, atol=1e-6)


def test_bottleneck_strides_in_the_3x3():
    """ResNet v1.5 does. The code of the original paper strides in the first 1x1."""
    outputs = jax.eval_shape(
        lambda: submodule_outputs(make_block(stride=2, residual=bottleneck), jnp.zeros((1, 6, 6, 4)))
    )
    sizes = {name: outputs[name].shape[1:] for name in ("conv1", "conv2", "conv3")}
    assert sizes == {"conv1": (6, 6, 8), "conv2": (3, 3, 8), "conv3": (3, 3, 32)}


def test_blur_pool_strides_after_the_activation_and_before_the_projection():
    block = make_block(stride=2, residual=bottleneck, blur_pool=True)
    outputs = jax.eval_shape(lambda: submodule_outputs(block, jnp.zeros((1, 6, 6, 4))))
    at_half_size = {name for name, value in outputs.items() if value.shape[1] == 3}
    assert at_half_size == {"dropout", "conv3", "norm3", "shortcut_conv", "shortcut_norm"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", [basic, bottleneck])
def test_shortcut_is_the_identity_if_the_shape_does_not_change(kind, residual):
    images = jnp.zeros((1, 6, 6, residual(8, 1)[-1].features))
    variables = jax.eval_shape(make_block(kind, residual=residual).init, jax.random.key(0), images)
    assert not any("shortcut" in name for name in variables["params"])


@pytest.mark.parametrize("kind", [PostActivationBlock, PreActivationBlock])
def test_stochastic_depth_drops_whole_residuals_and_keeps_the_mean(kind):
    """In training, the residual of an example is either dropped or divided by its survival probability."""
    image = 10 + jax.random.uniform(jax.random.key(0), (1, 2, 2, 8))  # So large that the last ReLU clips nothing.
    images = jnp.broadcast_to(image, (1000, 2, 2, 8))  # Equal examples have equal residuals.
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
    block = make_block()
    images = random_images(2, 4, 4, 8)
    variables = block.init(jax.random.key(0), images)
    np.testing.assert_array_equal(block.apply(variables, images, 0.9), block.apply(variables, images))


def test_dropout_comes_before_the_last_convolution():
    """The rest of the block is linear, so the mean over many masks equals the output without dropout."""
    images = random_images(2, 4, 4, 8)
    block = make_block(PreActivationBlock, train=True, dropout=0.4)
    without_dropout = make_block(PreActivationBlock, train=True)
    variables = without_dropout.init(jax.random.key(0), images)

    def run(block, key):
        return block.apply(variables, images, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    masked = jax.jit(jax.vmap(lambda key: run(block, key)))(jax.random.split(jax.random.key(1), 4000))
    assert float(masked.std(axis=0).mean()) > 0.1
    np.testing.assert_allclose(masked.mean(axis=0), run(without_dropout, jax.random.key(0)), atol=0.1)


# ---- The model -------------------------------------------------------------------------------------------------------


def abstract_output(model, shape):
    """Return shapes and dtypes of logits, variables and updated statistics."""
    images = jnp.zeros(shape)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    logits, updated = jax.eval_shape(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]), variables)
    return logits, variables, updated


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 28, 28, 1), (2, 33, 47, 3), (1, 224, 224, 3)])
def test_model_accepts_any_image_size_and_channel_count(name, shape):
    logits, _, _ = abstract_output(create_model(name, 7), shape)
    assert logits.shape == (shape[0], 7)


@pytest.mark.parametrize("name", ["airbench94", "airbench94_plain", "airbench96"])
def test_airbench_needs_nine_pixels(name):
    model = create_model(name, 7)
    logits, _, _ = abstract_output(model, (2, 9, 9, 3))
    assert logits.shape == (2, 7)
    with pytest.raises(UserError, match="too small for the max-pools of this model"):
        abstract_output(model, (2, 9, 8, 3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_statistics_and_logits_are_float32(dtype):
    logits, variables, updated = abstract_output(create_model("resnet20", 10, dtype=jnp.dtype(dtype)), (2, 8, 8, 3))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}


def test_bfloat16_model_convolves_in_bfloat16():
    model = create_model("resnet20", 10, dtype=jnp.bfloat16)
    images = jnp.zeros((1, 8, 8, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    program = str(jax.make_jaxpr(lambda v: model.apply(v, images, train=False))(variables))
    convolutions = [line for line in program.splitlines() if "conv_general_dilated" in line]
    assert len(convolutions) == 19
    assert all("bf16[" in line for line in convolutions)


def submodule_shapes(model, shape):
    """Return [height, width, channels] of the output of each submodule by name."""
    images = jnp.zeros(shape)
    _, captured = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, train=False, capture_intermediates=True, mutable=True)
    )
    return {
        name: tree["__call__"][0].shape[1:] for name, tree in captured["intermediates"].items() if name != "__call__"
    }


def test_imagenet_model_divides_the_size_by_four_in_the_stem_and_by_two_per_stage():
    shapes = submodule_shapes(create_model("resnet50", 10), (1, 224, 224, 3))
    assert shapes["stem_conv"] == (112, 112, 64)
    assert [shapes[f"stage{stage}_block1"] for stage in (1, 2, 3, 4)] == [
        (56, 56, 256),
        (28, 28, 512),
        (14, 14, 1024),
        (7, 7, 2048),
    ]


def test_cifar_model_keeps_the_size_until_stage_two():
    shapes = submodule_shapes(create_model("resnet20", 10), (1, 32, 32, 3))
    assert shapes["stem_conv"] == (32, 32, 16)
    assert [shapes[f"stage{stage}_block3"] for stage in (1, 2, 3)] == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]


def test_airbench_model_halves_the_size_in_every_stage():
    shapes = submodule_shapes(create_model("airbench94", 10), (1, 32, 32, 3))
    assert shapes["stem_conv"] == (31, 31, 24)
    assert [shapes[f"stage{stage}_block1"] for stage in (1, 2, 3)] == [(15, 15, 64), (7, 7, 256), (3, 3, 256)]


@pytest.mark.parametrize("name", ["resnet50", "resnetv2_50", "bit_r50x1"])
def test_features_are_named_by_stage(name):
    model = create_model(name, 10)
    images = jnp.zeros((2, 64, 96, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    logits, features = jax.eval_shape(lambda v: model.apply(v, images, train=False, return_features=True), variables)
    assert logits.shape == (2, 10)
    assert {name: feature.shape for name, feature in features.items()} == {
        "stem": (2, 16, 24, 64),
        "stage1": (2, 16, 24, 256),
        "stage2": (2, 8, 12, 512),
        "stage3": (2, 4, 6, 1024),
        "stage4": (2, 2, 3, 2048),
        "pooled": (2, 2048),
    }


@pytest.mark.parametrize("settings", [{}, {"block": PreActivationBlock}], ids=["post-activation", "pre-activation"])
def test_head_is_applied_to_the_pooled_features(settings):
    model = create_model("tiny", 10, **settings)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = model.init(jax.random.key(0), images, train=False)
    logits, features = model.apply(variables, images, train=False, return_features=True)
    np.testing.assert_array_equal(logits, model.apply(variables, images, train=False))
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, features["pooled"] @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6)
    if not settings:  # A pre-activation model normalizes and activates between the last stage and the pooling.
        np.testing.assert_allclose(features["pooled"], features["stage2"].mean((1, 2)), rtol=1e-5)


def test_stochastic_depth_drop_rate_rises_linearly_with_depth():
    """Huang et al. 2016, equation 4: from (nearly) 0 at the first of 9 blocks to the setting at the last."""
    model = create_model("resnet20", 10, stochastic_depth=0.9)
    images = jnp.zeros((1, 8, 8, 3))
    rates = []

    def record(call, arguments, settings, context):
        if isinstance(context.module, ResidualBlock) and context.method_name == "__call__":
            rates.append(arguments[1])
        return call(*arguments, **settings)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert rates == pytest.approx([0.1 * block for block in range(1, 10)])


@pytest.mark.slow
@pytest.mark.parametrize("scan_blocks", [False, True])
def test_remat_recomputes_activations_with_equal_gradients(scan_blocks):
    """On CPU, XLA saves the memory of recomputed activations only in loops; on TPU, also without them."""
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))
    model = create_model("resnet20", 10, stage_sizes=(4,), scan_blocks=scan_blocks)
    variables = model.init(jax.random.key(0), images[:1], train=False)

    def compile_gradients(model):
        def loss(variables):
            return jnp.sum(model.apply(variables, images, train=True, mutable=["batch_stats"])[0] ** 2)

        return jax.jit(jax.grad(loss)).lower(variables).compile()

    kept = compile_gradients(model)
    recomputed = compile_gradients(model.clone(remat=True))
    pairs = zip(*(jax.tree.leaves(program(variables)) for program in (kept, recomputed)), strict=True)
    for expected, actual in pairs:
        np.testing.assert_allclose(expected, actual, rtol=1e-3, atol=1e-3)
    assert recomputed.cost_analysis()["flops"] > 1.1 * kept.cost_analysis()["flops"]
    if scan_blocks:
        assert recomputed.memory_analysis().temp_size_in_bytes < 0.7 * kept.memory_analysis().temp_size_in_bytes


def test_running_statistics_move_towards_the_batch_statistics():
    """new = momentum * old + (1 - momentum) * batch, with the biased variance of the whole batch."""
    model = create_model("tiny", 10, norm_momentum=0.8)
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))
    variables = model.init(jax.random.key(0), images, train=False)
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    features = jax.lax.conv_general_dilated(
        images,
        variables["params"]["stem_conv"]["kernel"],
        (1, 1),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    features = np.asarray(features, np.float64)
    statistics = updated["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(statistics["mean"], 0.2 * features.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.8 + 0.2 * features.var((0, 1, 2)), rtol=1e-4)
