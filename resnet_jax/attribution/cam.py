"""Class activation maps: sums over the channels of a stage, with weights from the gradient of the target logit.

Each function returns one map per image, [batch, height, width], in the resolution of the stage.
"""

import jax
import jax.numpy as jnp

from resnet_jax.attribution.attribution_model import StageGradients

EPSILON = 1e-6  # in the denominator of Grad-CAM++, as in the package pytorch-grad-cam


def grad_cam(stage: StageGradients) -> jax.Array:
    """Weight each channel by its mean gradient, and keep the positive part of the sum.

    Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2. At the last stage of a model that ends with average pooling,
    this is CAM (Zhou et al. 2016, equation 2) divided by height x width.

    Example:
      >>> ones = jnp.ones((1, 2, 2, 3))
      >>> grad_cam(StageGradients(ones, 2 * ones)).tolist()
      [[[6.0, 6.0], [6.0, 6.0]]]
    """
    weights = jnp.mean(stage.gradients, axis=(1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights * stage.activations, axis=-1))


def grad_cam_plus_plus(stage: StageGradients) -> jax.Array:
    """Weight each channel by its positive gradients, averaged so that small objects count as much as large ones.

    Chattopadhay et al. 2018, "Grad-CAM++", equations 10 and 19, with the exponential of the logit as the score, which
    turns its higher derivatives into powers of the gradient.

    Example:
      >>> ones = jnp.ones((1, 2, 2, 3))
      >>> grad_cam_plus_plus(StageGradients(ones, ones)).round(3).tolist()
      [[[2.0, 2.0], [2.0, 2.0]]]
    """
    activations, gradients = stage
    squares, cubes = gradients**2, gradients**3
    denominator = 2 * squares + jnp.sum(activations, axis=(1, 2), keepdims=True) * cubes
    shares = jnp.where(gradients == 0, 0, squares / (denominator + EPSILON))
    weights = jnp.sum(shares * jax.nn.relu(gradients), axis=(1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights * activations, axis=-1))


def hires_cam(stage: StageGradients) -> jax.Array:
    """Multiply activation and gradient at each position (Draelos & Carin 2020, "HiResCAM", equation 4).

    At the last stage of a model that ends with average pooling and a linear head, the map sums to the target logit
    minus the head's bias. Positions with negative values lower the logit.

    Example:
      >>> ones = jnp.ones((1, 2, 2, 3))
      >>> hires_cam(StageGradients(ones, -ones)).tolist()
      [[[-3.0, -3.0], [-3.0, -3.0]]]
    """
    return jnp.sum(stage.activations * stage.gradients, axis=-1)


def layer_cam(stage: StageGradients) -> jax.Array:
    """Weight each position by its own positive gradient, so that early stages give detailed maps.

    Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", equations 5 and 7.

    Example:
      >>> ones = jnp.ones((1, 2, 2, 3))
      >>> layer_cam(StageGradients(ones, -ones)).tolist()
      [[[0.0, 0.0], [0.0, 0.0]]]
    """
    return jax.nn.relu(jnp.sum(jax.nn.relu(stage.gradients) * stage.activations, axis=-1))
