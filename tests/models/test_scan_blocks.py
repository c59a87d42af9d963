import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.resnet import FixupBlock, PreActivationBlock, ResNet, bottleneck

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def make_models(**settings):
    """Return a model and the same model with `scan_blocks`."""
    unrolled = ResNet((1, 3), 10, width=8, stem="cifar", **settings)
    return unrolled, unrolled.clone(scan_blocks=True)


def train_and_evaluate(model, variables):
    """Return logits, updated statistics and gradients in training, and logits in evaluation."""

    @jax.jit
    def compute(variables):
        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            logits, updated = model.apply(
                variables | {"params": params}, IMAGES, train=True, mutable=["batch_stats"], rngs=rngs
            )
            return jnp.sum(logits**2), (logits, updated)

        gradients, rest = jax.grad(loss, has_aux=True)(variables["params"])
        return (rest, gradients), model.apply(variables, IMAGES, train=False)

    return compute(variables)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block": FixupBlock, "norm": "scalar_bias"},
        pytest.param({"block": PreActivationBlock, "residual": bottleneck, "remat": True}, marks=pytest.mark.slow),
    ],
    ids=["post-activation", "fixup", "pre-activation and remat"],
)
def test_scan_matches_separate_blocks(settings):
    unrolled, scanned = make_models(**settings)
    variables = scanned.init(jax.random.key(0), IMAGES, train=False)
    expected, expected_logits = train_and_evaluate(unrolled, variables)
    trained, logits = train_and_evaluate(scanned, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), trained, expected)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)


def test_scan_has_the_same_initial_variables():
    unrolled, scanned = (model.init(jax.random.key(0), IMAGES, train=False) for model in make_models())
    jax.tree.map(np.testing.assert_array_equal, unrolled, scanned)


def test_stochastic_depth_in_a_scan_draws_a_mask_per_block():
    """Four blocks give 16 combinations; with one key for the two scanned blocks, there would be 12 at most."""
    _, scanned = make_models(stochastic_depth=0.6)
    images = np.broadcast_to(IMAGES[:1], (256, 8, 8, 3))
    variables = scanned.init(jax.random.key(0), IMAGES, train=False)
    logits, _ = jax.jit(scanned.apply, static_argnames=("train", "mutable"))(
        variables, images, train=True, mutable=("batch_stats",), rngs={"dropout": jax.random.key(1)}
    )
    assert len(np.unique(np.asarray(logits)[:, 0].round(4))) > 12


@pytest.mark.slow
def test_remat_in_a_scan_recomputes_with_the_same_masks():
    _, scanned = make_models(stochastic_depth=0.5, dropout=0.3)
    variables = scanned.init(jax.random.key(0), IMAGES, train=False)
    expected, _ = train_and_evaluate(scanned, variables)
    recomputed, _ = train_and_evaluate(scanned.clone(remat=True), variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), expected, recomputed)


def test_scan_program_size_does_not_depend_on_depth():
    def count_convolutions(size):
        model = ResNet((size, size), 10, width=8, stem="cifar", scan_blocks=True)
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))
        program = str(jax.make_jaxpr(lambda variables: model.apply(variables, IMAGES, train=False))(variables))
        return program.count("conv_general_dilated[")

    assert count_convolutions(10) == count_convolutions(4) == 1 + 2 * (2 + 2) + 1
