"""Checks of how far a map can be trusted: whether it ranks regions by their effect, and depends on the parameters.

Deletion and insertion (Petsiuk et al. 2018, "RISE", section 4.3) replace the most important regions of an image first,
and measure the target's probability. We replace patches with the blurred image. If single pixels are replaced with
black, the images are unlike any training image, and even a random map scores well.

The randomization check (Adebayo et al. 2018, "Sanity Checks for Saliency Maps") compares the maps of the trained
model with those of a model whose parameters are random.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.runtime import parallel

PATCHES = 8  # patches per side of an image, unless they would be smaller than `MIN_PATCH`
MIN_PATCH = 2  # pixels per side of a patch
STEPS = 16  # steps in which all patches are replaced
BLUR = 1 / 8  # std of the blur, as a fraction of the side of the image


class Areas(NamedTuple):
    """Areas under the curves of the target's probability, float32 [batch] in [0, 1].

    Attributes:
      deletion: while the image is replaced with its blurred version. Low is good.
      insertion: while the blurred version is replaced with the image. High is good.
    """

    deletion: np.ndarray
    insertion: np.ndarray


def deletion_and_insertion(model: AttributionModel, images: jax.Array, targets: jax.Array, maps: np.ndarray) -> Areas:
    """Replace patches of the images, those with the highest mean of the map first.

    Args:
      model: the trained model.
      images: normalized images, float [batch, height, width, channels].
      targets: a class index for each image, int [batch].
      maps: their maps, float [batch, height, width].
    """
    blurred = blur(images)
    patches = patch_numbers(*images.shape[1:3])
    ranks = _patch_ranks(maps, patches)[:, patches]  # [batch, height, width], 0 for the most important patch
    num_patches = patches.max() + 1
    curves = []
    pace = parallel.Pace()
    for step in range(STEPS + 1):
        replaced = (ranks < num_patches * step / STEPS)[..., None]
        deleted = model.target_probabilities(jnp.where(replaced, blurred, images), targets)
        inserted = model.target_probabilities(jnp.where(replaced, images, blurred), targets)
        curves.append((deleted, inserted))
        pace((deleted, inserted))
    return Areas(*(np.trapezoid(np.array(curve), axis=0) / STEPS for curve in zip(*curves, strict=True)))


def random_maps(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return maps without any information, [batch, height, width]: a random value per patch."""
    patches = patch_numbers(*shape[1:])
    values = np.random.default_rng(seed).random((shape[0], patches.max() + 1), np.float32)
    return values[:, patches]


def patch_numbers(height: int, width: int) -> np.ndarray:
    """Return the number of the patch that each pixel belongs to, int [height, width].

    Example:
      >>> patch_numbers(8, 16)[0].tolist()
      [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    """
    vertical, horizontal = (max(1, min(PATCHES, size // MIN_PATCH)) for size in (height, width))
    rows = np.arange(height) * vertical // height
    columns = np.arange(width) * horizontal // width
    return rows[:, None] * horizontal + columns


def blur(images: jax.Array) -> jax.Array:
    """Blur images, [batch, height, width, channels], with a Gaussian. The border pixels extend beyond the edges."""
    for axis in (1, 2):
        images = jnp.moveaxis(jnp.tensordot(_blur_matrix(images.shape[axis]), images, (1, axis)), 0, axis)
    return images


def rank_correlations(maps: np.ndarray, other_maps: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of the absolute values of each pair of maps, float64 [batch].

    It is NaN where one of the two maps is constant.

    Args:
      maps, other_maps: [batch, height, width].

    Example:
      >>> maps = np.arange(4.0).reshape(1, 2, 2)
      >>> rank_correlations(maps, maps**3), rank_correlations(maps, 5 - maps)
      (array([1.]), array([-1.]))
    """
    from scipy import stats  # Imported here, because importing it takes longer than importing JAX.

    ranks = (stats.rankdata(np.abs(array).reshape(len(array), -1), axis=1) for array in (maps, other_maps))
    first, second = (array - array.mean(axis=1, keepdims=True) for array in ranks)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    with np.errstate(invalid="ignore"):
        return np.sum(first * second, axis=1) / norms


def with_random_head(variables: dict, seed: int) -> dict:
    """Return the variables of a trained model with a random head, drawn as `with_random_parameters` does.

    Example:
      >>> variables = {"params": {"stem": jnp.ones(3), "head": jnp.arange(3.0)}}
      >>> changed = with_random_head(variables, seed=0)["params"]
      >>> changed["stem"].tolist(), bool((changed["head"] == variables["params"]["head"]).any())
      ([1.0, 1.0, 1.0], False)
    """
    params = variables["params"]
    return variables | {"params": params | {"head": _draw_like(params["head"], seed)}}


def with_random_parameters(variables: dict, seed: int) -> dict:
    """Return the variables of a trained model with random parameters in place of the trained ones.

    The values of each array are drawn from a normal distribution with the mean and std of the trained values. Initial
    values would not do: some models start with a head of zeros, whose maps are constant. An array of equal values, such
    as a single scalar, stays as it is.

    The batch statistics get their initial values, mean 0 and variance 1. With the trained ones, the logits of the
    published ResNet-20 would reach 1e9, and all probabilities would be 0 or 1. The reason is that some of its channels
    hardly vary: dividing the output of random kernels by such a small std amplifies it.

    Args:
      variables: the variables of the trained model.
      seed: the seed of the random values.
    """
    changed = variables | {"params": _draw_like(variables["params"], seed)}
    if "batch_stats" in variables:
        changed["batch_stats"] = jax.tree_util.tree_map_with_path(_initial_statistic, variables["batch_stats"])
    return changed


def _draw_like(params: dict, seed: int) -> dict:
    """Draw arrays like those of `params` from normal distributions with their means and stds."""
    generator = np.random.default_rng(seed)

    def draw(array: jax.Array) -> jax.Array:
        trained = np.asarray(array)
        drawn = generator.normal(trained.mean(), trained.std(), trained.shape)
        return jax.device_put(drawn.astype(trained.dtype), array.sharding)

    return jax.tree.map(draw, params)


def _initial_statistic(path: tuple, array: jax.Array) -> jax.Array:
    """Return the initial value of a variable in "batch_stats": zeros for a "mean", ones for a "var"."""
    initial = np.full(array.shape, path[-1].key == "var", array.dtype)
    return jax.device_put(initial, array.sharding)


def _patch_ranks(maps: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Return the rank of each patch by the mean of the map, int [batch, patches], 0 for the highest mean.

    Equal means are ranked in random order. Many maps have large regions of zeros: in raster order, the patches at the
    top would always come before those at the bottom.
    """
    membership = patches.reshape(-1, 1) == np.arange(patches.max() + 1)
    means = maps.reshape(len(maps), -1) @ (membership / membership.sum(axis=0))
    random_order = np.random.default_rng(0).random(means.shape)
    return np.argsort(np.lexsort((random_order, -means), axis=1), axis=1)


def _blur_matrix(size: int) -> jax.Array:
    """Return the matrix that blurs along a side of this many pixels, float32 [size, size]."""
    distances = np.arange(-size, 2 * size) - np.arange(size)[:, None]
    weights = np.exp(-0.5 * (distances / (BLUR * size)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = weights[:, size : 2 * size].copy()
    matrix[:, 0] += weights[:, :size].sum(axis=1)
    matrix[:, -1] += weights[:, 2 * size :].sum(axis=1)
    return jnp.asarray(matrix, jnp.float32)
