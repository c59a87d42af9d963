"""The same outputs, statistics and gradients as PyTorch, from the same random weights.

PyTorch computes in float64, so that what differs in logits and statistics is our rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.models.factory import create_model

torch = pytest.importorskip("torch")

from tests.models import torch_reference as reference  # noqa: E402

BATCH, CLASSES = 4, 10
QUICK = ["resnet20"]
SLOW = [
    "wide_resnet16_4",
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "seresnet50",
    "resnet50d",
    "resnetv2_50",
]
WITH_BATCH_NORM = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
ALL = [*WITH_BATCH_NORM, pytest.param("bit_r50x1", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For arrays as small as these, PyTorch's threads wait for one another longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def results(request):
    """Logits in evaluation, then statistics and gradients of a pass in training: ours, and PyTorch's."""
    name = request.param
    random = np.random.default_rng(0)
    # 18, 9, 5 and 40, 20, 10, 5, 3, 2: even and odd sizes are halved.
    size = 18 if reference.ARCHITECTURES[name].cifar else 40
    images = random.normal(size=(BATCH, size, size, 3)).astype(np.float32)
    labels = random.integers(CLASSES, size=BATCH)
    network = reference.make_network(reference.ARCHITECTURES[name], CLASSES)
    reference.randomize(network, seed=0)
    model = create_model(name, CLASSES)
    variables = reference.to_variables(network.state_dict(), model)
    return ours(model, variables, images, labels), theirs(network.double(), model, images, labels)


def ours(model, variables, images, labels):
    """Logits and statistics in float32.

    Gradients in float64: in float32 an array may be a hundredth off, PyTorch's too, because a ReLU's input that is
    rounded to the other side of zero turns its whole gradient on or off. Convolutions of float64 XLA compiles into
    plain loops, and grouped ones take twenty times as long unless LLVM optimises them.
    """
    optimised = {"xla_backend_optimization_level": 2}

    @jax.jit
    def forward(variables, images):
        _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return model.apply(variables, images, train=False), updated.get("batch_stats", {})

    @functools.partial(jax.jit, compiler_options=optimised)
    @jax.grad
    def gradients(params, statistics, images):
        logits, _ = model.clone(dtype=jnp.float64).apply(
            {"params": params, "batch_stats": statistics}, images, train=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    logits, statistics = forward(variables, images)
    with jax.enable_x64(True):
        doubles = jax.tree.map(jnp.float64, variables)
        return jax.device_get((logits, statistics, gradients(doubles["params"], doubles["batch_stats"], images)))


def theirs(network, model, images, labels):
    """As ours, in names and shapes too; the variances as they would be if PyTorch took the biased ones."""
    images = torch.from_numpy(images).double().permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network.eval()(images)
    counts = {}  # By the name of a running variance, what a batch's is taken over: batch * height * width.
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, inputs, __, name=name: counts.update({f"{name}.running_var": inputs[0][:, 0].numel()})
            )
    before = {name: array.clone() for name, array in network.state_dict().items()}
    torch.nn.functional.cross_entropy(network.train()(images), torch.from_numpy(labels)).backward()
    after = network.state_dict()
    for name, count in counts.items():  # 0.9 of the old one, and of the batch's n / (n - 1) times the biased one.
        kept = 0.9 * before[name]
        after[name] = kept + (after[name] - kept) * (count - 1) / count
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    statistics = reference.to_variables(after, model)["batch_stats"]
    return logits.numpy(), statistics, reference.to_variables(gradients, model)["params"]


def largest_difference(actual, expected):
    """Of all arrays of a tree, norm of the difference over norm, and which array it is."""
    assert jax.tree.map(np.shape, actual) == jax.tree.map(np.shape, expected)
    relative = jax.tree.map(lambda one, other: np.linalg.norm(one - other) / np.linalg.norm(other), actual, expected)
    return max(
        (float(value), jax.tree_util.keystr(path)) for path, value in jax.tree_util.tree_leaves_with_path(relative)
    )


@pytest.mark.parametrize("results", ALL, indirect=True)
def test_logits_in_evaluation_are_those_of_pytorch(results):
    """The largest difference, over the largest logit."""
    (actual, _, _), (expected, _, _) = results
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-5


@pytest.mark.parametrize("results", WITH_BATCH_NORM, indirect=True)
def test_running_statistics_after_a_step_are_those_of_pytorch(results):
    (_, actual, _), (_, expected, _) = results
    difference, where = largest_difference(actual, expected)
    assert difference < 2e-6, where


@pytest.mark.parametrize("results", ALL, indirect=True)
def test_gradients_are_those_of_pytorch(results):
    (_, _, actual), (_, _, expected) = results
    difference, where = largest_difference(actual, expected)
    assert difference < 1e-6, where
