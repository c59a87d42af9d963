"""Losses against NumPy references in float64, written from the papers, and their defining properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.selfsupervised import view_losses
from resnet_jax.selfsupervised.view_losses import Views

SIZE, WIDTH = 12, 6


def random_views(seed=0, size=SIZE, width=WIDTH):
    generator = np.random.default_rng(seed)
    first = generator.normal(size=(size, width))
    return Views(first, first + generator.normal(size=(size, width)))


def cosine(first, second):
    return np.dot(first, second) / np.linalg.norm(first) / np.linalg.norm(second)


def barlow_twins(first, second):
    total = 0.0
    for i in range(first.shape[1]):
        for j in range(second.shape[1]):
            a, b = first[:, i] - first[:, i].mean(), second[:, j] - second[:, j].mean()
            entry = np.mean(a * b) / np.sqrt((np.mean(a**2) + 1e-5) * (np.mean(b**2) + 1e-5))
            total += (1 - entry) ** 2 if i == j else 0.0051 * entry**2
    return total


def vicreg(first, second):
    variance = covariance = 0.0
    for view in (first, second):
        matrix = np.cov(view, rowvar=False)
        variance += np.mean(np.maximum(0, 1 - np.sqrt(np.diag(matrix) + 1e-4))) / 2
        covariance += sum(matrix[i, j] ** 2 for i, j in np.ndindex(matrix.shape) if i != j) / len(matrix)
    return 25 * np.mean((first - second) ** 2) + 25 * variance + covariance


def nt_xent(first, second):
    images = np.concatenate([first, second])
    total = 0.0
    for i, anchor in enumerate(images):
        scores = {k: np.exp(cosine(anchor, other) / 0.5) for k, other in enumerate(images) if k != i}
        total -= np.log(scores[(i + len(first)) % len(images)] / sum(scores.values()))
    return total / len(images)


def predictive(first, second):
    """Return the mean of -cos over both directions, with the given predictions and fixed targets."""
    targets = random_views(seed=1)
    pairs = [*zip(first, targets.second, strict=True), *zip(second, targets.first, strict=True)]
    return -np.mean([cosine(prediction, target) for prediction, target in pairs])


def byol(first, second):
    """Return the sum over both directions of the squared distance between vectors of length 1, averaged over images."""
    targets = random_views(seed=1)
    pairs = [*zip(first, targets.second, strict=True), *zip(second, targets.first, strict=True)]
    distances = [np.sum((p / np.linalg.norm(p) - t / np.linalg.norm(t)) ** 2) for p, t in pairs]
    return np.sum(distances) / len(first)


CASES = {
    "barlow_twins": (view_losses.barlow_twins, barlow_twins),
    "vicreg": (view_losses.vicreg, vicreg),
    "nt_xent": (view_losses.nt_xent, nt_xent),
    "byol": (lambda views: view_losses.byol(views, random_views(seed=1)), byol),
    "simsiam": (lambda views: view_losses.simsiam(views, random_views(seed=1)), predictive),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_agrees_with_the_paper(name):
    ours, reference = CASES[name]
    views = random_views()
    assert ours(jax.tree.map(jnp.float32, views)) == pytest.approx(reference(*views), rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradient_agrees_with_the_paper(name):
    """The reference is differentiated by central differences."""
    ours, reference = CASES[name]
    views = random_views()
    gradient = jax.grad(ours)(jax.tree.map(jnp.float32, views))
    step = 1e-5
    for number, view in enumerate(views):
        expected = np.zeros_like(view)
        for index in np.ndindex(view.shape):
            moved = [np.array(other) for other in views]
            moved[number][index] += step
            above = reference(*moved)
            moved[number][index] -= 2 * step
            expected[index] = (above - reference(*moved)) / (2 * step)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(gradient[number]) / scale, expected / scale, atol=1e-5)


def test_barlow_twins_is_least_for_equal_views_with_uncorrelated_dimensions():
    rows = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T.astype(np.float32)
    assert view_losses.barlow_twins(Views(rows, rows)) == pytest.approx(0, abs=1e-8)
    correlated = rows[:, [0, 0, 1]]
    assert view_losses.barlow_twins(Views(correlated, correlated)) == pytest.approx(2 * 0.0051, rel=1e-3)


def test_vicreg_of_equal_views_with_varied_and_uncorrelated_dimensions_is_zero():
    rows = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T.astype(np.float32)
    assert view_losses.vicreg(Views(rows, rows)) == pytest.approx(0, abs=1e-6)


def test_nt_xent_of_equal_views_of_orthogonal_images_is_its_least_value():
    rows = np.eye(4, dtype=np.float32)
    others = 2 * 4 - 2
    assert view_losses.nt_xent(Views(rows, rows)) == pytest.approx(np.log(1 + others * np.exp(-2)), rel=1e-6)


def test_vicreg_of_collapsed_embeddings_is_the_variance_term():
    constant = np.ones((8, 4), np.float32)
    assert view_losses.vicreg(Views(constant, constant)) == pytest.approx(25 * (1 - 0.01), rel=1e-5)


def test_nt_xent_of_collapsed_embeddings_is_the_log_of_the_number_of_others():
    constant = np.ones((8, 4), np.float32)
    assert view_losses.nt_xent(Views(constant, constant)) == pytest.approx(np.log(15), rel=1e-6)


@pytest.mark.parametrize(("loss", "least"), [(view_losses.byol, 0), (view_losses.simsiam, -1)])
def test_predictive_losses_are_least_for_equal_directions(loss, least):
    views = jax.tree.map(jnp.float32, random_views())
    swapped = Views(3 * views.second, 2 * views.first)
    assert loss(views, swapped) == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_zero_embeddings_are_finite(name):
    zeros = Views(jnp.zeros((SIZE, WIDTH)), jnp.zeros((SIZE, WIDTH)))
    gradients = jax.grad(CASES[name][0])(zeros)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
