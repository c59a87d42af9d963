"""Compare logits, statistics and gradients with PyTorch, for the same random weights.

PyTorch computes in float64, so the differences in logits and statistics are our rounding errors.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.models.factory import create_model

torch = pytest.importorskip("torch")

from tests.models import torch_reference as reference  # noqa: E402  It imports PyTorch.

BATCH, CLASSES = 4, 10
FULL_DEPTH = ["resnet20"]  # Other models are cut to two blocks per stage; further blocks only repeat them.
QUICK = ["resnet20", "airbench94"]
SLOW = [
    "wide_resnet16_4",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "seresnet50",
    "resnet50d",
    "resnetv2_50",
]
WITH_BATCH_NORM = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
ALL = [*WITH_BATCH_NORM, pytest.param("bit_r50x1", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Run PyTorch on one thread: with arrays this small, its threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def results(request):
    """Return (evaluation logits, running statistics after a training pass, gradients), ours and PyTorch's."""
    name = request.param
    random = np.random.default_rng(0)
    # From the image to the last stage, sizes are 18, 9, 5 or 40, 20, 10, 5, 3, 2, so even and odd sizes are halved.
    is_airbench = name == "airbench94"
    size = 18 if is_airbench or reference.ARCHITECTURES[name].cifar else 40
    images = random.normal(size=(BATCH, size, size, 3)).astype(np.float32)
    labels = random.integers(CLASSES, size=BATCH)
    settings = {}
    if is_airbench:
        torch_model = reference.make_airbench94(CLASSES)
    else:
        architecture = reference.ARCHITECTURES[name]
        if name not in FULL_DEPTH:
            settings["stage_sizes"] = tuple(min(blocks, 2) for blocks in architecture.sizes)
            architecture = dataclasses.replace(architecture, sizes=settings["stage_sizes"])
        torch_model = reference.make_model(architecture, CLASSES)
    reference.randomize(torch_model, seed=0)
    model = create_model(name, CLASSES, **settings)
    variables = reference.to_variables(torch_model.state_dict(), model)
    return ours(model, variables, images, labels), theirs(torch_model.double(), model, images, labels)


def ours(model, variables, images, labels):
    """Compute our logits and statistics in float32, and our gradients in float64.

    In float32 an array of gradients may be off by 1 %, in PyTorch as well as here, because a ReLU input that rounds to
    the other side of zero turns its whole gradient on or off. XLA compiles float64 convolutions into plain loops. The
    loops of grouped convolutions take 20 times as long without LLVM's optimizations, which `tests/conftest.py`
    turns off.
    """
    optimized = {"xla_backend_optimization_level": 2}

    @jax.jit
    def forward(variables, images):
        _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return model.apply(variables, images, train=False), updated.get("batch_stats", {})

    @functools.partial(jax.jit, compiler_options=optimized)
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


def theirs(torch_model, model, images, labels):
    """Compute PyTorch's results under our names and in our shapes, with running variances converted to biased ones."""
    images = torch.from_numpy(images).double().permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = torch_model.eval()(images)
    counts = {}  # Running variance -> the number of values that it is computed over: batch * height * width.
    for name, module in torch_model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, inputs, __, name=name: counts.update({f"{name}.running_var": inputs[0][:, 0].numel()})
            )
    before = {name: array.clone() for name, array in torch_model.state_dict().items()}
    torch.nn.functional.cross_entropy(torch_model.train()(images), torch.from_numpy(labels)).backward()
    after = torch_model.state_dict()
    for name, count in counts.items():  # PyTorch adds n / (n - 1) times the biased variance.
        kept = 0.9 * before[name]
        after[name] = kept + (after[name] - kept) * (count - 1) / count
    gradients = {name: parameter.grad for name, parameter in torch_model.named_parameters()}
    statistics = reference.to_variables(after, model)["batch_stats"]
    return logits.numpy(), statistics, reference.to_variables(gradients, model)["params"]


def largest_difference(actual, expected):
    """Return the largest relative difference (norm over norm) of all arrays in a tree, and the array's path."""
    assert jax.tree.map(np.shape, actual) == jax.tree.map(np.shape, expected)
    relative = jax.tree.map(lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b), actual, expected)
    by_path = {
        jax.tree_util.keystr(path): float(value) for path, value in jax.tree_util.tree_leaves_with_path(relative)
    }
    assert np.isfinite(list(by_path.values())).all(), by_path  # `max` would pass over NaN.
    return max((value, path) for path, value in by_path.items())


@pytest.mark.parametrize("results", ALL, indirect=True)
def test_evaluation_logits_match_pytorch(results):
    """The tolerance is relative to the largest logit."""
    (actual, _, _), (expected, _, _) = results
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-5


@pytest.mark.parametrize("results", WITH_BATCH_NORM, indirect=True)
def test_running_statistics_match_pytorch(results):
    (_, actual, _), (_, expected, _) = results
    difference, path = largest_difference(actual, expected)
    assert difference < 2e-6, path


@pytest.mark.parametrize("results", ALL, indirect=True)
def test_gradients_match_pytorch(results):
    (_, _, actual), (_, _, expected) = results
    difference, path = largest_difference(actual, expected)
    assert difference < 1e-6, path
