"""Where in a step the first value that is not finite comes up: in its input, a layer, the loss, or a gradient."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from resnet_jax.data.preprocess import Preprocess
from resnet_jax.runtime import parallel
from resnet_jax.trained_model import TrainedModel
from resnet_jax.training import losses
from resnet_jax.training.distillation import teacher_of
from resnet_jax.training.freezing import Freezing
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import make_objective

COLLECTION = "nan_triage"  # of Linen: what layers put their figures into
BATCH, VARIABLE, LAYER, RESULT, GRADIENT = "batch", "variable", "layer", "result", "gradient"


class Part(NamedTuple):
    """A value of a step.

    Attributes:
      kind: "batch", "variable", "layer", "result" or "gradient".
      name: such as "stage1_block1/conv1", or "stage1_block1/conv1/kernel" of a parameter or its gradient.
      largest: magnitude among what is finite of it.
      not_finite: the share of what is not, in [0, 1].
    """

    kind: str
    name: str
    largest: float
    not_finite: float

    def __str__(self) -> str:
        return f"the gradient of {self.name}" if self.kind == GRADIENT else self.name


def triage(
    config: ConfigDict,
    model: nn.Module,
    preprocess: Preprocess,
    teacher: TrainedModel | None,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
) -> list[Part]:
    """Takes a step apart: all its values, in the order in which they are computed.

    These are its pictures, labels, parameters and running statistics, the output of each layer and of each block (after
    those of the block's layers), logits and loss, and the gradients, from the head to the stem. Blocks that run in a
    loop (`model.scan_blocks`) are taken one by one.

    Args:
      config: resolved settings.
      model, preprocess, teacher: as in a `Experiment`.
      state: before the step, replicated; its optimizer state and averages do not matter.
      images: augmented, [batch, height, width, channels] in [0, 255], sharded.
      labels: int32 [batch], or soft ones, float32 [batch, classes].
    """
    freezing, layers = Freezing(config.freeze), []
    objective = make_objective(
        model.clone(scan_blocks=False),
        preprocess,
        losses.from_config(config.loss),
        config.seed,
        freezing,
        teacher_of(config.loss, teacher),
        collects=(COLLECTION,),
    )

    def step(state: TrainState, images: jax.Array, labels: jax.Array, teacher_variables: dict | None) -> dict:
        trained, _ = freezing.split(state.params)
        with nn.intercept_methods(_watch(layers)):
            (loss, (logits, updated)), gradients = jax.value_and_grad(objective, has_aux=True)(
                trained, state, images, labels, teacher_variables
            )
        values = {
            BATCH: {"pictures": images, "labels": labels},
            VARIABLE: {**_by_name(state.params), **_by_name(state.batch_stats)},
            RESULT: {"logits": logits, "loss": loss},
            GRADIENT: _by_name(gradients),
        }
        return {**jax.tree.map(_figures, values), LAYER: _by_name(updated[COLLECTION])}

    compiled = parallel.jit(step, images.sharding.mesh)
    found = parallel.fetch(compiled(state, images, labels, teacher and teacher.variables))
    place = {name: index for index, name in enumerate(layers)}

    def of_layer(name: str) -> int:
        return place[name.rpartition("/")[0]]

    names = {
        BATCH: ["pictures", "labels"],
        VARIABLE: sorted(found[VARIABLE], key=of_layer),
        LAYER: [f"{name}/{COLLECTION}" for name in place if name],  # The network's own output is the logits.
        RESULT: ["logits", "loss"],
        GRADIENT: sorted(found[GRADIENT], key=of_layer, reverse=True),
    }
    return [
        Part(kind, name.removesuffix(f"/{COLLECTION}"), *(float(figure) for figure in found[kind][name]))
        for kind in names
        for name in names[kind]
    ]


def first_not_finite(parts: Sequence[Part]) -> Part | None:
    """Where it begins, or None if the step is finite."""
    return next((part for part in parts if part.not_finite), None)


def _watch(layers: list[str]) -> Callable:
    """A method interceptor of Linen under which layers leave the figures of their output, and their names in order.

    What is computed inside `nn.remat` can leave it through a collection alone.
    """

    def intercept(call: Callable, arguments: tuple, settings: dict, context: nn.module.InterceptorContext):
        output = call(*arguments, **settings)
        module = context.module
        is_layer = context.method_name == "__call__" and not isinstance(module, nn.Dropout)
        if is_layer and module.sow(COLLECTION, COLLECTION, _figures(output), lambda _, figures: figures, tuple):
            layers.append("/".join(module.path))
        return output

    return intercept


def _figures(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest finite magnitude, and the share of what is not finite."""
    finite = jnp.isfinite(values)
    largest = jnp.max(jnp.abs(jnp.where(finite, values, 0)).astype(jnp.float32))
    return largest, jnp.mean(~finite, dtype=jnp.float32)


def _by_name(tree: dict) -> dict:
    return flatten_dict(tree, sep="/")
