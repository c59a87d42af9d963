"""The train step: a pure function, compiled once for all devices."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from resnet_jax import parallel, randomness
from resnet_jax.data.augment.pipeline import Augment
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.resident import EpochInputs
from resnet_jax.data.streaming import StreamedInputs
from resnet_jax.randomness import Use
from resnet_jax.training import averaging
from resnet_jax.training.accumulation import mean_over_parts
from resnet_jax.training.distillation import Teacher
from resnet_jax.training.freezing import NOTHING_FROZEN, Freezing, merge
from resnet_jax.training.losses import Loss
from resnet_jax.training.objective import make_objective
from resnet_jax.training.state import TrainState

Inputs = EpochInputs | StreamedInputs
BatchOf = Callable[[Inputs, jax.Array], tuple[jax.Array, jax.Array]]
Metrics = dict[str, jax.Array]
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_batch(take: BatchOf, augment: Augment, seed: int) -> BatchOf:
    """A pure function to what the network is trained on at a step: augmented images, not normalised, and labels.

    Args:
      take: from a feed's inputs and the step to images and labels.
      augment: what is done to them.
      seed: of the run.
    """

    def batch_of(inputs: Inputs, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        return augment(randomness.key(seed, Use.AUGMENTATION, step), *take(inputs, step))

    return batch_of


def make_train_step(
    model: nn.Module,
    batch_of: BatchOf,
    preprocess: Preprocess,
    loss_of: Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    seed: int,
    steps: int = 1,
    *,
    freezing: Freezing = NOTHING_FROZEN,
    ema_decay: float | None = None,
    teacher: Teacher | None = None,
    accumulate_steps: int = 1,
) -> TrainStep:
    """Compiles `steps` consecutive steps into one call.

    Args:
      model: the network.
      batch_of: from a feed's inputs and the step to images, and labels int32 [batch] or soft ones [batch, classes].
      preprocess: normalisation of the images.
      loss_of: from logits and labels to the mean loss.
      optimizer: from gradients of what is not frozen to updates; its learning rate follows `schedule`.
      schedule: the same schedule, for the log.
      mesh: the devices; the state is replicated, batches are split over them.
      seed: of the run, for dropout and stochastic depth.
      steps: how many steps a call takes; their inputs must be the same.
      freezing: which parameters stay as they are; the backward pass ends at the lowest one that does not.
      ema_decay: of the state's averages; None: it has none.
      teacher: a network to learn from as well.
      accumulate_steps: parts that each batch is taken in, for less memory: see `accumulation`.

    Returns:
      A function of (state, inputs), with a teacher also its variables, to (state, metrics), the latter float32 [steps]
      of each step: `loss`, `top1`, `learning_rate`, `gradient_norm`. It donates the state that it is given. Where
      labels are soft, `top1` goes by the likeliest class.
    """
    objective = make_objective(model, preprocess, loss_of, seed, freezing, teacher)
    value_and_gradients = jax.value_and_grad(objective, has_aux=True)

    def train_step(state: TrainState, inputs: Inputs, teacher_variables: dict) -> tuple[TrainState, Metrics]:
        trained, frozen = freezing.split(state.params)

        def of_part(batch: tuple[jax.Array, jax.Array], part: jax.Array | None) -> tuple[dict, dict, Metrics]:
            (loss, (logits, updated)), gradients = value_and_gradients(trained, state, *batch, teacher_variables, part)
            labels = batch[1]
            classes = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
            top1 = jnp.mean(jnp.argmax(logits, axis=-1) == classes, dtype=jnp.float32)
            return gradients, updated.get("batch_stats", {}), {"loss": loss, "top1": top1}

        batch = batch_of(inputs, state.step)
        gradients, batch_stats, metrics = mean_over_parts(of_part, batch, accumulate_steps, mesh)
        metrics["learning_rate"] = jnp.asarray(schedule(state.step), jnp.float32)
        metrics["gradient_norm"] = optax.global_norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        params = merge(optax.apply_updates(trained, updates), frozen)
        ema = state.ema
        if ema_decay is not None:
            ema = averaging.update(ema, {"params": params, "batch_stats": batch_stats}, ema_decay, state.step)
        state = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        return state, metrics

    def call(state: TrainState, inputs: Inputs, teacher_variables: dict | None = None) -> tuple[TrainState, Metrics]:
        if steps == 1:  # XLA makes convolutions inside a loop several times slower on CPU, so none for a single step.
            state, metrics = train_step(state, inputs, teacher_variables)
            return state, jax.tree.map(lambda value: value[None], metrics)
        return jax.lax.scan(lambda carry, _: train_step(carry, inputs, teacher_variables), state, length=steps)

    return parallel.jit(call, mesh, donate_argnums=0)
