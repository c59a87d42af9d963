import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from resnet_jax.models.layers import GroupedBatchNorm

SHAPE, GROUP = (12, 3, 2, 5), 4


def images(dtype=jnp.float32):
    """Examples that differ in mean and deviation, so that groups do too."""
    level = jnp.arange(12.0).reshape(12, 1, 1, 1)
    return ((1 + 0.1 * level) * jax.random.normal(jax.random.key(0), SHAPE) + level).astype(dtype)


def variables():
    """Parameters and running statistics none of which is a default."""
    keys = jax.random.split(jax.random.key(1), 4)
    scale, bias, mean, var = (jax.random.uniform(key, (5,), minval=0.5, maxval=2.0) for key in keys)
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


def layer(group_size=GROUP, **settings):
    return GroupedBatchNorm(group_size=group_size, momentum=0.8, epsilon=1e-3, **settings)


def train(norm, x):
    return norm.apply(variables(), x, use_running_average=False, mutable=["batch_stats"])


def test_each_group_is_normalised_by_itself_and_running_statistics_move_towards_the_mean_of_the_groups():
    given, before = np.asarray(images(), np.float64), jax.tree.map(np.float64, variables())
    groups = given.reshape(3, GROUP, 3, 2, 5)
    mean, var = groups.mean((1, 2, 3)), groups.var((1, 2, 3))
    expected = np.concatenate([(groups[i] - mean[i]) / np.sqrt(var[i] + 1e-3) for i in range(3)])
    output, updated = train(layer(), images())
    params, statistics = before["params"], before["batch_stats"]
    np.testing.assert_allclose(output, expected * params["scale"] + params["bias"], rtol=1e-4, atol=1e-5)
    assert updated["batch_stats"].keys() == {"mean", "var"}
    for name, of_groups in (("mean", mean), ("var", var)):
        moved = 0.8 * statistics[name] + 0.2 * of_groups.mean(0)
        np.testing.assert_allclose(updated["batch_stats"][name], moved, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    def output(params, x):
        given = variables() | {"params": params}
        return layer().apply(given, x, use_running_average=False, mutable=["batch_stats"])[0]

    check_grads(output, (variables()["params"], images()), order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


def test_the_whole_batch_as_one_group_is_plain_batch_norm():
    plain = nn.BatchNorm(momentum=0.8, epsilon=1e-3)
    for one, other in zip(train(layer(12), images()), train(plain, images()), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other)


def test_variables_and_evaluation_are_those_of_plain_batch_norm():
    plain = nn.BatchNorm(momentum=0.8, epsilon=1e-3)
    for training in (True, False):
        made = layer().init(jax.random.key(0), images(), use_running_average=not training)
        jax.tree.map(
            np.testing.assert_array_equal, made, plain.init(jax.random.key(0), images(), use_running_average=True)
        )
    evaluated = [norm.apply(variables(), images(), use_running_average=True) for norm in (layer(), plain)]
    np.testing.assert_array_equal(*evaluated)


def test_statistics_of_short_floats_are_taken_in_float32():
    """In bfloat16 a mean of 200 would be off by up to half, and so would be what is normalised with it."""
    shifted = (200 + images()).astype(jnp.bfloat16)
    output, updated = train(layer(dtype=jnp.bfloat16), shifted)
    expected, expected_update = train(layer(), shifted.astype(jnp.float32))
    assert output.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(output.astype(np.float32), expected, rtol=1e-2, atol=1e-2)
    jax.tree.map(np.testing.assert_array_equal, updated, expected_update)


def test_a_batch_that_is_not_made_of_whole_groups_is_an_error():
    with pytest.raises(TypeError, match="reshape"):
        train(layer(5), images())
