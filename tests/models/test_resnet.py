import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.factory import create_model
from resnet_jax.models.resnet import PreActivationBlock, ResidualBlock


def output(model, shape):
    images = jnp.zeros(shape)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    logits, updated = jax.eval_shape(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]), variables)
    return logits, variables, updated


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 28, 28, 1), (2, 33, 47, 3), (1, 224, 224, 3)])
def test_takes_any_size_and_channel_count(name, shape):
    logits, _, _ = output(create_model(name, 7), shape)
    assert logits.shape == (shape[0], 7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_statistics_and_logits_are_float32(dtype):
    logits, variables, updated = output(create_model("resnet20", 10, dtype=jnp.dtype(dtype)), (2, 8, 8, 3))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}


def test_bfloat16_computes_in_bfloat16():
    model, images = create_model("resnet20", 10, dtype=jnp.bfloat16), jnp.zeros((1, 8, 8, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    program = str(jax.make_jaxpr(lambda v: model.apply(v, images, train=False))(variables))
    convolutions = [line for line in program.splitlines() if "conv_general_dilated" in line]
    assert len(convolutions) == 19
    assert all("bf16[" in line for line in convolutions)


def stage_shapes(model, shape):
    images = jnp.zeros(shape)
    _, seen = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, train=False, capture_intermediates=True, mutable=True)
    )
    return {name: tree["__call__"][0].shape[1:] for name, tree in seen["intermediates"].items() if name != "__call__"}


def test_imagenet_stem_divides_the_size_by_four_and_each_later_stage_by_two():
    shapes = stage_shapes(create_model("resnet50", 10), (1, 224, 224, 3))
    assert shapes["stem_conv"] == (112, 112, 64)
    assert [shapes[f"stage{stage}_block1"] for stage in (1, 2, 3, 4)] == [
        (56, 56, 256),
        (28, 28, 512),
        (14, 14, 1024),
        (7, 7, 2048),
    ]


def test_cifar_stem_keeps_the_size():
    shapes = stage_shapes(create_model("resnet20", 10), (1, 32, 32, 3))
    assert shapes["stem_conv"] == (32, 32, 16)
    assert [shapes[f"stage{stage}_block3"] for stage in (1, 2, 3)] == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]


@pytest.mark.parametrize("name", ["resnet50", "resnetv2_50", "bit_r50x1"])
def test_features_are_the_named_stages(name):
    model, images = create_model(name, 10), jnp.zeros((2, 64, 96, 3))
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
def test_the_head_is_applied_to_the_pooled_features(settings):
    model = create_model("tiny", 10, **settings)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = model.init(jax.random.key(0), images, train=False)
    logits, features = model.apply(variables, images, train=False, return_features=True)
    np.testing.assert_array_equal(logits, model.apply(variables, images, train=False))
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, features["pooled"] @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6)
    if not settings:  # What a pre-activation network pools is activated after its last stage.
        np.testing.assert_allclose(features["pooled"], features["stage2"].mean((1, 2)), rtol=1e-5)


def test_the_probability_of_a_drop_rises_linearly_with_depth():
    """Huang et al. 2016, equation 4: from (nearly) 0 at the first of 9 blocks to the setting at the last."""
    model, images = create_model("resnet20", 10, stochastic_depth=0.9), jnp.zeros((1, 8, 8, 3))
    rates = []

    def note(call, arguments, settings, context):
        if isinstance(context.module, ResidualBlock) and context.method_name == "__call__":
            rates.append(arguments[1])
        return call(*arguments, **settings)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert rates == pytest.approx([0.1 * block for block in range(1, 10)])


@pytest.mark.parametrize("scan_blocks", [pytest.param(False, marks=pytest.mark.slow), True])
def test_remat_computes_twice_to_the_same_gradients(scan_blocks):
    """XLA on CPU frees what it computes again only in loops; on a TPU it does so in either case."""
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))

    model = create_model("resnet20", 10, stage_sizes=(4,), scan_blocks=scan_blocks)
    variables = model.init(jax.random.key(0), images[:1], train=False)

    def compile_gradients(model):
        def loss(variables):
            return jnp.sum(model.apply(variables, images, train=True, mutable=["batch_stats"])[0] ** 2)

        return jax.jit(jax.grad(loss)).lower(variables).compile()

    kept, recomputed = compile_gradients(model), compile_gradients(model.clone(remat=True))
    for one, other in zip(*(jax.tree.leaves(program(variables)) for program in (kept, recomputed)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert recomputed.cost_analysis()["flops"] > 1.1 * kept.cost_analysis()["flops"]
    if scan_blocks:
        assert recomputed.memory_analysis().temp_size_in_bytes < 0.7 * kept.memory_analysis().temp_size_in_bytes


def test_running_statistics_follow_the_batch(mesh):
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
