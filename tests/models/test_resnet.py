import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.variants import create_model


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
    model = create_model("resnet20", 10, dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    program = str(jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, jnp.zeros((1, 8, 8, 3))))
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
