"""The functions of a trained model that attribution methods need: logits, and gradients of logits."""

import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from resnet_jax.errors import unknown_name
from resnet_jax.models.layers import Activation, resolve_activation
from resnet_jax.models.resnet import ResNet
from resnet_jax.runtime import parallel


class StageGradients(NamedTuple):
    """The output of a stage, and the gradient of each image's target logit with respect to it.

    Attributes:
      activations, gradients: [batch, height, width, channels].
    """

    activations: jax.Array
    gradients: jax.Array


class AttributionModel:
    """A trained model in evaluation mode: its logits, and the gradients of its logits.

    The programs that compute them are compiled once per shape of the images.

    Images are normalized, float [batch, height, width, channels], so zero is the mean pixel of the training images.
    Targets are class indices, int [batch]. The images of a batch do not influence each other. Results are sharded over
    the devices as batches are.

    Args:
      model: the Linen module.
      variables: its variables.
      mesh: the devices.
      probabilities: a function from logits, [batch, classes], to the probabilities of the classes.

    Attributes:
      stages: the names of the stages, from the input to the output.
    """

    def __init__(
        self,
        model: ResNet,
        variables: dict,
        mesh: Mesh,
        probabilities: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
    ):
        # The loop that `scan_blocks` makes would hide the blocks from `_add_to_output`. Both settings save memory in
        # training, and do not change any result.
        model = model.clone(scan_blocks=False, remat=False)
        activation = resolve_activation(model.activation)
        compiled = functools.partial(parallel.jit, mesh=mesh, out_shardings=parallel.batch_sharded(mesh))
        self.stages = tuple(f"stage{number}" for number in range(1, len(model.stage_sizes) + 1))
        self._model = model
        self._variables = variables
        self._probabilities = probabilities
        self._logits = compiled(lambda variables, images: model.apply(variables, images, train=False))
        self._input_gradients = compiled(_input_gradients(model))
        self._guided_gradients = compiled(_input_gradients(model.clone(activation=guided(activation))))
        self._stage_gradients = compiled(self._compute_stage_gradients, static_argnames="stage")
        self._stage_resolutions = functools.cache(self._compute_stage_resolutions)

    def with_variables(self, variables: dict) -> "AttributionModel":
        """Return the same model with other variables. It shares the compiled programs."""
        changed = copy.copy(self)
        changed._variables = variables
        return changed

    def logits(self, images: jax.Array) -> jax.Array:
        """Return the logits, [batch, classes]."""
        return self._logits(self._variables, images)

    def target_logits(self, images: jax.Array, targets: jax.Array) -> jax.Array:
        """Return the logit of each image's target, [batch]."""
        return _pick(self.logits(images), targets)

    def target_probabilities(self, images: jax.Array, targets: jax.Array) -> jax.Array:
        """Return the probability of each image's target, [batch]."""
        return _pick(self._probabilities(self.logits(images)), targets)

    def input_gradients(self, images: jax.Array, targets: jax.Array) -> jax.Array:
        """Return the gradient of each image's target logit with respect to the image; it has the shape of `images`."""
        return self._input_gradients(self._variables, images, targets)

    def guided_gradients(self, images: jax.Array, targets: jax.Array) -> jax.Array:
        """Return what `input_gradients` does, but for the `guided` version of the model's activation.

        The ReLU inside squeeze-and-excitation keeps its own gradient.
        """
        return self._guided_gradients(self._variables, images, targets)

    def stage_gradients(self, images: jax.Array, targets: jax.Array, stage: str) -> StageGradients:
        """Return the output of a stage, and the gradient of each image's target logit with respect to it.

        Raises:
          UserError: if there is no such stage.
        """
        self.check_stage(stage)
        return self._stage_gradients(self._variables, images, targets, stage=stage)

    def check_stage(self, stage: str) -> None:
        """Raise `UserError` if there is no such stage. The message suggests the nearest name."""
        if stage not in self.stages:
            raise unknown_name("stage", stage, self.stages)

    def stage_resolution(self, image_shape: tuple[int, ...], stage: str) -> tuple[int, int]:
        """Return height and width of the output of a stage, for images of shape (batch, height, width, channels)."""
        return self._stage_resolutions(image_shape)[stage]

    def _apply(self, variables: dict, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self._model.apply(variables, images, train=False, return_features=True)  # type: ignore[return-value]

    def _compute_stage_resolutions(self, image_shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
        images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
        _, features = jax.eval_shape(self._apply, self._variables, images)
        return {stage: features[stage].shape[1:3] for stage in self.stages}

    def _compute_stage_gradients(
        self, variables: dict, images: jax.Array, targets: jax.Array, stage: str
    ) -> StageGradients:
        last_block = f"{stage}_block{self._model.stage_sizes[self.stages.index(stage)]}"

        def sum_of_target_logits(offset):
            with nn.intercept_methods(_add_to_output(last_block, offset)):
                logits, features = self._apply(variables, images)
            return jnp.sum(_pick(logits, targets)), features[stage]

        # The gradient with respect to an offset of zero, added to the output of a block, is that of the output.
        _, features = jax.eval_shape(self._apply, variables, images)
        zeros = jnp.zeros(features[stage].shape, features[stage].dtype)
        gradients, activations = jax.grad(sum_of_target_logits, has_aux=True)(zeros)
        dtype = jnp.promote_types(activations.dtype, jnp.float32)
        return StageGradients(activations.astype(dtype), gradients.astype(dtype))


def guided(activation: Activation) -> Activation:
    """Return the same activation, but with a backward pass that drops negative gradients.

    Springenberg et al. 2014, "Striving for Simplicity", section 3.4, for ReLU.

    Example:
      >>> relu = guided(jax.nn.relu)
      >>> jax.grad(lambda x: jnp.sum(relu(x) * jnp.array([1.0, -1.0])))(jnp.ones(2)).tolist()
      [1.0, 0.0]
    """

    @jax.custom_vjp
    def guided_activation(x):
        return activation(x)

    def backward(pull_back, gradient):
        return pull_back(jnp.maximum(gradient, 0))

    guided_activation.defvjp(lambda x: jax.vjp(activation, x), backward)
    return guided_activation


def _input_gradients(model: ResNet) -> Callable[[dict, jax.Array, jax.Array], jax.Array]:
    """Return a function from variables, images and targets to the gradients with respect to the images."""

    def sum_of_target_logits(images, variables, targets):
        logits: jax.Array = model.apply(variables, images, train=False)  # type: ignore[assignment]
        return jnp.sum(_pick(logits, targets))

    return lambda variables, images, targets: jax.grad(sum_of_target_logits)(images, variables, targets)


def _add_to_output(module_name: str, offset: jax.Array):
    """Return an interceptor for `nn.intercept_methods` that adds `offset` to the output of a module."""

    def intercept(next_function, args, kwargs, context):
        output = next_function(*args, **kwargs)
        is_module = context.module.name == module_name and context.method_name == "__call__"
        return output + offset if is_module else output

    return intercept


def _pick(values: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the value of each row's target: [batch] of [batch, classes]."""
    return jnp.take_along_axis(values, targets[:, None], axis=1)[:, 0]
