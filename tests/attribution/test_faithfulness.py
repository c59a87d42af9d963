from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from resnet_jax.attribution import faithfulness
from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.attribution.methods import attribute
from resnet_jax.models.factory import create_model
from resnet_jax.runtime import parallel


def test_random_maps_rank_patches_worse_than_grad_cam(model, images, targets):
    images, targets = images[:8], targets[:8]
    maps = np.asarray(attribute(model, "grad_cam", images, targets))
    measured = faithfulness.deletion_and_insertion(model, images, targets, maps)
    assert measured.deletion.mean() == pytest.approx(0.392, abs=0.02)
    assert measured.insertion.mean() == pytest.approx(0.813, abs=0.02)
    for seed in range(2):
        random_maps = faithfulness.random_maps(seed, maps.shape)
        random = faithfulness.deletion_and_insertion(model, images, targets, random_maps)
        assert random.deletion.mean() > measured.deletion.mean() + 0.1
        assert random.insertion.mean() < measured.insertion.mean() - 0.2


@pytest.mark.parametrize("name", ["input_gradient", "guided_backpropagation"])
def test_maps_of_random_parameters_do_not_correlate_with_those_of_the_trained_model(
    published, model, images, targets, name
):
    random = model.with_variables(faithfulness.with_random_parameters(published.variables, 0))
    maps, random_maps = (np.asarray(attribute(variant, name, images, targets)) for variant in (model, random))
    assert abs(faithfulness.rank_correlations(maps, random_maps).mean()) < 0.2


@pytest.mark.slow
def test_rise_ranks_patches_better_than_a_random_map(model, images, targets):
    """The values of equation 6, which is not used, are in parentheses."""
    images, targets = images[:8], targets[:8]
    maps = np.asarray(attribute(model, "rise", images, targets))
    measured = faithfulness.deletion_and_insertion(model, images, targets, maps)
    assert measured.deletion.mean() == pytest.approx(0.368, abs=0.02)  # (0.404), random maps 0.53 and 0.56
    assert measured.insertion.mean() == pytest.approx(0.831, abs=0.02)  # (0.793), random maps 0.55 and 0.58
    correlations = stats.spearmanr(maps.reshape(8, -1), axis=1).statistic
    assert correlations[np.triu_indices(8, 1)].mean() < 0.3  # between the maps of different images: 0.17 (0.45)


@pytest.fixture(scope="module")
def random_head(published, model):
    """The published ResNet-20 with a random head."""
    return model.with_variables(faithfulness.with_random_head(published.variables, 0))


@pytest.mark.parametrize(
    ("name", "least", "most"), [("input_gradient", 0.4, 0.65), ("guided_backpropagation", 0.92, 0.98)]
)
def test_random_head_changes_gradients_but_hardly_guided_backpropagation(
    model, random_head, images, targets, name, least, most
):
    """Adebayo et al. 2018: maps that do not change with the parameters cannot explain the model."""
    maps, maps_of_random_head = (
        np.asarray(attribute(variant, name, images, targets)) for variant in (model, random_head)
    )
    assert least < faithfulness.rank_correlations(maps, maps_of_random_head).mean() < most


@pytest.mark.parametrize("randomize", [faithfulness.with_random_head, faithfulness.with_random_parameters])
@pytest.mark.parametrize("name", ["tiny", "bit_r50x1", "fixup_resnet110"])
def test_maps_of_random_parameters_are_not_constant(name, randomize, single_device):
    """Before training, these models have a head of zeros, and fixup_resnet110 residuals of zeros, too."""
    model = create_model(name, 10, stage_sizes=(1,), width=16, head_init=nn.initializers.zeros)
    images, targets = jax.random.normal(jax.random.key(1), (2, 16, 16, 3)), jnp.array([1, 2])
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    trained = dict(variables)
    trained["params"] = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), variables["params"]
    )
    attribution_model = AttributionModel(model, trained, single_device)
    random = attribution_model.with_variables(randomize(trained, 0))
    maps, random_maps = (
        np.asarray(attribute(variant, "input_gradient", images, targets)) for variant in (attribution_model, random)
    )
    correlations = faithfulness.rank_correlations(maps, random_maps)
    assert np.isfinite(correlations).all()
    assert correlations.max() < 0.99


def test_random_parameters_have_the_mean_and_std_of_the_trained_ones():
    kernel = 3 + 0.5 * jax.random.normal(jax.random.key(0), (3, 3, 16, 32))
    params = {"stage1_block1": {"conv1": {"kernel": kernel}}, "head": {"kernel": kernel[0], "bias": jnp.zeros(7)}}
    changed = faithfulness.with_random_parameters({"params": params}, seed=0)["params"]
    changed_kernel = np.asarray(changed["stage1_block1"]["conv1"]["kernel"])
    np.testing.assert_allclose([changed_kernel.mean(), changed_kernel.std()], [3.0, 0.5], atol=0.02)
    assert abs(np.corrcoef(changed_kernel.ravel(), kernel.ravel())[0, 1]) < 0.1
    np.testing.assert_array_equal(changed["head"]["bias"], np.zeros(7))


def test_random_head_depends_on_the_seed_only():
    params = {"stem": jnp.arange(3.0), "head": {"kernel": jnp.arange(6.0)}}
    variables = {"params": params, "batch_stats": {"norm": {"mean": jnp.ones(3)}}}
    first, same, different = (faithfulness.with_random_head(variables, seed) for seed in (0, 0, 1))
    assert first["params"]["stem"] is params["stem"]
    assert first["batch_stats"] is variables["batch_stats"]
    kernels = [changed["params"]["head"]["kernel"] for changed in (first, same, different)]
    assert not np.isclose(kernels[0], params["head"]["kernel"]).any()
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.isclose(kernels[0], kernels[2]).any()


def test_random_parameters_reset_the_batch_statistics_of_every_norm():
    """Otherwise, channels with a tiny variance make the activations explode."""
    model = create_model("tiny", 10)
    images = jnp.zeros((1, 8, 8, 3))
    initial = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    trained = initial | {"batch_stats": jax.tree.map(lambda leaf: leaf + 1e-3, initial["batch_stats"])}
    changed = faithfulness.with_random_parameters(trained, seed=0)
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], initial["batch_stats"])


def test_random_parameters_of_the_published_resnet20_give_probabilities_between_0_and_1(
    published, model, images, targets
):
    for seed in range(3):
        random = model.with_variables(faithfulness.with_random_parameters(published.variables, seed))
        assert 0.1 < float(jnp.std(random.logits(images))) < 10
        probabilities = random.target_probabilities(images, targets)
        assert float(probabilities.min()) > 1e-4 and float(probabilities.max()) < 1 - 1e-4


class Brightness:
    """A model whose probability is the fraction of bright pixels."""

    def target_probabilities(self, images, targets):
        return (images > 0.9).mean(axis=(1, 2, 3))


def test_deletion_and_insertion_of_a_known_model():
    """Deleting patches in one order gives the same images as inserting them in the reverse order."""
    images = jnp.zeros((1, 16, 16, 1)).at[:, :, :8].set(1.0)
    bright = np.asarray(images[..., 0]) + np.arange(16)[:, None] / 100 + np.arange(16) / 10_000  # without ties
    best, worst = (
        faithfulness.deletion_and_insertion(Brightness(), images, jnp.zeros(1, int), maps) for maps in (bright, -bright)
    )
    assert best.deletion < worst.deletion - 0.05
    assert best.insertion > worst.insertion + 0.05
    np.testing.assert_allclose(best.deletion, worst.insertion, rtol=1e-5)


def test_deletion_and_insertion_wait_for_the_devices(monkeypatch):
    """Without that, the images of all steps would be in memory at the same time."""
    pace = mock.Mock()
    monkeypatch.setattr(parallel, "Pace", lambda: pace)
    faithfulness.deletion_and_insertion(Brightness(), jnp.ones((1, 8, 8, 1)), jnp.zeros(1, int), np.ones((1, 8, 8)))
    assert pace.call_count == faithfulness.STEPS + 1


def test_equal_patches_are_ranked_in_random_order():
    """In raster order, patch 0 would come right after the three important ones, in every image."""
    patches = faithfulness.patch_numbers(32, 32)
    maps = np.zeros((200, 32, 32), np.float32)
    maps[:, -4:, -12:] = 1
    ranks = faithfulness._patch_ranks(maps, patches)
    np.testing.assert_array_equal(np.sort(ranks, axis=1), np.tile(np.arange(64), (200, 1)))
    assert set(ranks[:, -3:].ravel()) == {0, 1, 2}
    np.testing.assert_allclose(ranks[:, :-3].mean(axis=0), 33, atol=6)  # The mean of 3, ..., 63; std 1.25.
    np.testing.assert_array_equal(ranks, faithfulness._patch_ranks(maps, patches))


def test_blur_equals_that_of_scipy():
    images = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)
    expected = ndimage.gaussian_filter(images, (0, 16 / 8, 24 / 8, 0), mode="nearest", truncate=8)
    np.testing.assert_allclose(faithfulness.blur(jnp.asarray(images)), expected, atol=1e-4)


def test_patches_are_equal_squares():
    patches = faithfulness.patch_numbers(32, 32)
    assert np.bincount(patches.ravel()).tolist() == [16] * 64
    assert patches[:4, :4].max() == 0
    assert np.bincount(faithfulness.patch_numbers(8, 8).ravel()).tolist() == [4] * 16  # never single pixels
    assert faithfulness.patch_numbers(1, 3).tolist() == [[0, 0, 0]]


def test_rank_correlations_equal_those_of_scipy():
    first, second = np.random.default_rng(0).normal(size=(2, 3, 5, 5))
    expected = [stats.spearmanr(abs(a).ravel(), abs(b).ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(faithfulness.rank_correlations(first, second), expected)
    assert np.isnan(faithfulness.rank_correlations(first, np.zeros_like(first))).all()
