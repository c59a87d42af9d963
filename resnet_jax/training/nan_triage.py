"""Find the first value in a train step that is not finite: batch, variable, layer output, loss or gradient."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict

from resnet_jax.runtime import parallel
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import loss_fn

COLLECTION = "nan_triage"  # the Linen collection that receives the statistics of layer outputs
BATCH, VARIABLE, LAYER, RESULT, GRADIENT, NORM = "batch", "variable", "layer", "result", "gradient", "norm"


class StepValue(NamedTuple):
    """Statistics of one array in a train step.

    Attributes:
      kind: "batch", "variable", "layer" (an output), "result", "gradient" or "norm".
      name: such as "stage1_block1/conv1", or "stage1_block1/conv1/kernel" for a parameter or its gradient.
      largest: the largest finite magnitude.
      not_finite: the fraction of elements that are not finite, in [0, 1].
    """

    kind: str
    name: str
    largest: float
    not_finite: float

    def __str__(self) -> str:
        return f"the gradient of {self.name}" if self.kind == GRADIENT else self.name


def triage(experiment: Experiment, state: TrainState, images: jax.Array, labels: jax.Array) -> list[StepValue]:
    """Return the statistics of all values of a train step, in the order in which the values are computed.

    The values are the images, labels, parameters and running statistics, the output of each layer and of each block
    (after those of the block's layers), logits and loss, the gradients from the head to the stem, and their norm, which
    may overflow when they do not. Blocks that run in a loop (`model.scan_blocks`) are listed one by one.

    Args:
      experiment: what is trained.
      state: the state before the step, replicated; its optimizer state is not used, and its averages only if they are
        the target of a self-supervised method.
      images: augmented, [batch, height, width, channels] in [0, 255], sharded; in pre-training, [batch, 2, ...].
      labels: int32 [batch], or soft labels float32 [batch, classes].
    """
    unrolled = dataclasses.replace(experiment, model=experiment.model.clone(scan_blocks=False))
    loss_and_gradients = jax.value_and_grad(
        functools.partial(loss_fn, unrolled, extra_collections=(COLLECTION,)), has_aux=True
    )
    layers: list[str] = []  # names of the layers, in the order of the forward pass

    def step(state: TrainState, images: jax.Array, labels: jax.Array, teacher_variables: dict | None) -> dict:
        trainable, _ = experiment.freezing.split(state.params)
        with nn.intercept_methods(_record_outputs(layers)):
            (loss, (logits, _, updated)), gradients = loss_and_gradients(
                trainable, state, images, labels, teacher_variables
            )
        values = {
            BATCH: {"images": images, "labels": labels},
            VARIABLE: {**_by_name(state.params), **_by_name(state.batch_stats)},
            RESULT: {"logits": logits, "loss": loss},
            GRADIENT: _by_name(gradients),
            NORM: {"gradient_norm": optax.tree.norm(gradients)},
        }
        return {**jax.tree.map(_statistics, values), LAYER: _by_name(updated[COLLECTION])}

    teacher_variables = None if experiment.teacher is None else experiment.teacher.variables
    statistics = parallel.fetch(parallel.jit(step, experiment.mesh)(state, images, labels, teacher_variables))
    layer_index = {name: index for index, name in enumerate(layers)}

    def index_of_layer(name: str) -> int:
        return layer_index[name.rpartition("/")[0]]

    names_by_kind = {
        BATCH: ["images", "labels"],
        VARIABLE: sorted(statistics[VARIABLE], key=index_of_layer),
        LAYER: [f"{name}/{COLLECTION}" for name in layer_index if name],  # The output of the whole model is the logits.
        RESULT: ["logits", "loss"],
        GRADIENT: sorted(statistics[GRADIENT], key=index_of_layer, reverse=True),
        NORM: ["gradient_norm"],
    }
    return [
        StepValue(kind, name.removesuffix(f"/{COLLECTION}"), *(float(value) for value in statistics[kind][name]))
        for kind, names in names_by_kind.items()
        for name in names
    ]


def first_not_finite(values: Sequence[StepValue]) -> StepValue | None:
    """Return the first value that is not finite, or None if all are finite."""
    return next((value for value in values if value.not_finite), None)


def _record_outputs(layers: list[str]) -> Callable:
    """Return a Linen method interceptor that stores statistics of layer outputs and adds each layer's name to `layers`.

    The statistics are stored in a Linen collection, because values leave a module under `nn.remat` only in this way.
    """

    def intercept(call: Callable, arguments: tuple, kwargs: dict, context: nn.module.InterceptorContext):
        output = call(*arguments, **kwargs)
        module = context.module
        # In pre-training, the output of the whole model is not an array; its layers are listed one by one.
        is_layer = context.method_name == "__call__" and not isinstance(module, nn.Dropout)
        is_layer = is_layer and isinstance(output, jax.Array)
        if is_layer and module.sow(COLLECTION, COLLECTION, _statistics(output), lambda _, newest: newest, tuple):
            layers.append("/".join(module.path))
        return output

    return intercept


def _statistics(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the largest finite magnitude, and the fraction of elements that are not finite."""
    finite = jnp.isfinite(values)
    largest = jnp.max(jnp.abs(jnp.where(finite, values, 0)).astype(jnp.float32))
    return largest, jnp.mean(~finite, dtype=jnp.float32)


def _by_name(tree: dict) -> dict:
    return flatten_dict(tree, sep="/")
