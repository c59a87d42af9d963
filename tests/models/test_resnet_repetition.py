import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.resnet import FixupBlock, PreActivationBlock, ResNet, bottleneck

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def make_networks(**settings):
    unrolled = ResNet((1, 3), 10, width=8, stem="cifar", **settings)
    return unrolled, unrolled.clone(scan_blocks=True)


def train(network, variables):
    """Logits, updated statistics, and gradients of a loss; and logits in evaluation."""

    @jax.jit
    def both(variables):
        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            logits, updated = network.apply(
                variables | {"params": params}, IMAGES, train=True, mutable=["batch_stats"], rngs=rngs
            )
            return jnp.sum(logits**2), (logits, updated)

        gradients, rest = jax.grad(loss, has_aux=True)(variables["params"])
        return (rest, gradients), network.apply(variables, IMAGES, train=False)

    return both(variables)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block": FixupBlock, "norm": "scalar_bias"},
        pytest.param({"block": PreActivationBlock, "residual": bottleneck, "remat": True}, marks=pytest.mark.slow),
    ],
    ids=["post-activation", "fixup", "pre-activation and remat"],
)
def test_a_loop_computes_what_the_blocks_one_by_one_do(settings):
    unrolled, looped = make_networks(**settings)
    variables = looped.init(jax.random.key(0), IMAGES, train=False)
    (expected, expected_logits), (trained, logits) = (train(network, variables) for network in (unrolled, looped))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4), trained, expected)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)


def test_the_initial_variables_are_the_same():
    one, other = (network.init(jax.random.key(0), IMAGES, train=False) for network in make_networks())
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_blocks_are_dropped_each_by_itself():
    """With the same mask for all, an example would go through all blocks or through none."""
    _, looped = make_networks(stochastic_depth=0.6)
    images = np.broadcast_to(IMAGES[:1], (256, 8, 8, 3))
    variables = looped.init(jax.random.key(0), IMAGES, train=False)
    logits, _ = jax.jit(looped.apply, static_argnames=("train", "mutable"))(
        variables, images, train=True, mutable=("batch_stats",), rngs={"dropout": jax.random.key(1)}
    )
    assert len(np.unique(np.asarray(logits)[:, 0].round(4))) > 8


@pytest.mark.slow
def test_remat_computes_again_with_the_same_masks():
    _, looped = make_networks(stochastic_depth=0.5, dropout=0.3)
    variables = looped.init(jax.random.key(0), IMAGES, train=False)
    (once, _), (twice, _) = train(looped, variables), train(looped.clone(remat=True), variables)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4), once, twice)


def test_depth_does_not_grow_the_program():
    def convolutions(size):
        network = ResNet((size, size), 10, width=8, stem="cifar", scan_blocks=True)
        variables = jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGES, train=False))
        program = str(jax.make_jaxpr(lambda variables: network.apply(variables, IMAGES, train=False))(variables))
        return program.count("conv_general_dilated[")

    assert convolutions(10) == convolutions(4) == 1 + 2 * (2 + 2) + 1
