"""The train step: a pure function, compiled once for all devices."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax import randomness
from resnet_jax.data.augment.pipeline import Augment
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.resident import EpochInputs
from resnet_jax.data.streaming import StreamedInputs
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.training.distillation import Teacher
from resnet_jax.training.freezing import NOTHING_FROZEN, Freezing, merge
from resnet_jax.training.losses import Loss
from resnet_jax.training.state import TrainState

# --- Exponential moving averages of a network's variables.


def update(averages: dict, variables: dict, decay: float, step: jax.Array) -> dict:
    """The averages after one more step: decay * averages + (1 - decay) * variables.

    Polyak & Juditsky 1992, with the exponential weights of Szegedy et al. 2015 (section 8). So that the initial weights
    do not linger, the decay is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.

    Args:
      averages: float32 arrays.
      variables: the same tree, after the step.
      decay: in [0, 1).
      step: int32, steps taken before this one.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda average, value: average + (1 - decay) * (value - average), averages, variables)


# --- What a step minimises: the loss of a batch, as a function of the parameters that are trained.


Objective = Callable[..., tuple[jax.Array, tuple[jax.Array, dict]]]


def make_objective(
    model: nn.Module,
    preprocess: Preprocess,
    loss_of: Loss,
    seed: int,
    freezing: Freezing = NOTHING_FROZEN,
    teacher: Teacher | None = None,
    collects: tuple[str, ...] = (),
) -> Objective:
    """A pure function, to be differentiated by its first argument.

    Args:
      model, preprocess, loss_of, seed, freezing, teacher: as for `step.make_train_step`.
      collects: collections of Linen that the network may write to, besides its statistics.

    Returns:
      A function of (trained, state, images, labels, teacher_variables) to (loss, (logits, updated)): `trained` stands
      in for those of the state's parameters that are not frozen, and `updated` has the collections after the step. Of a
      batch that is taken in parts it also takes the part's number, for each has its own dropout.
    """

    def objective(
        trained: dict,
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        teacher_variables: dict | None,
        part: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        _, frozen = freezing.split(state.params)
        variables = {"params": merge(trained, frozen), "batch_stats": state.batch_stats}
        key = randomness.key(seed, Use.DROPOUT, state.step)
        rngs = {"dropout": key if part is None else jax.random.fold_in(key, part)}
        with nn.intercept_methods(freezing.norms()):
            logits, updated = model.apply(
                variables, preprocess(images), train=True, mutable=["batch_stats", *collects], rngs=rngs
            )
        loss = loss_of(logits, labels)
        if teacher is not None:
            loss = teacher.loss(logits, teacher.logits(teacher_variables, images), loss)
        return loss, (logits, updated)

    return objective


# --- A batch taken in parts, one after another, so that a device keeps the activations of one part at a time.
#
# Of every device a part has the same share of its examples, which therefore stay where they are: on 2 devices, 8 examples
# are taken in the 2 parts 0, 1, 4, 5 and 2, 3, 6, 7. Each part starts from the same running statistics of BatchNorm. So
# where BatchNorm's groups lie within such a share, and nothing random is drawn for examples (dropout, stochastic depth),
# the mean over the parts is that of the batch taken at once, but for rounding. Where they do not, which examples share
# statistics depends on the parts, and with these on the number of devices.


def mean_over_parts(function: Callable, batch, parts: int, mesh: Mesh):
    """The mean of what `function` returns for the parts of a batch.

    Args:
      function: from a part of `batch` and its number, int32, to a pytree of float arrays.
      batch: a pytree of arrays [batch, ...], split over the devices.
      parts: how many; with 1, `function` gets `batch` itself, and None as the number.
      mesh: the devices; their number times `parts` divides the batch.
    """
    if parts == 1:
        return function(batch, None)

    def step(mean, numbered_part: tuple):
        number, part = numbered_part
        result = function(part, number)
        # In this form the mean of equal values, such as statistics that are frozen, is that value to the last bit.
        return jax.tree.map(lambda mean, value: mean + (value - mean) / (number + 1), mean, result), None

    split = jax.tree.map(lambda array: split_into_parts(array, parts, mesh), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda array: array[0], split), jnp.zeros((), jnp.int32))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # XLA makes convolutions inside a loop several times slower on CPU, so the parts are written out there.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    mean, _ = jax.lax.scan(step, zeros, (jnp.arange(parts), split), unroll=on_cpu)
    return mean


def split_into_parts(array: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """[batch, ...] as [parts, batch / parts, ...], both split over the devices along `batch`; no data moves."""

    def place(array: jax.Array, *axes: str | None) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(*axes)))

    by_device = place(array.reshape(mesh.size, parts, -1, *array.shape[1:]), "data")
    by_part = place(jnp.swapaxes(by_device, 0, 1), None, "data")
    return place(by_part.reshape(parts, -1, *array.shape[1:]), None, "data")


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
            ema = update(ema, {"params": params, "batch_stats": batch_stats}, ema_decay, state.step)
        state = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        return state, metrics

    def call(state: TrainState, inputs: Inputs, teacher_variables: dict | None = None) -> tuple[TrainState, Metrics]:
        if steps == 1:  # XLA makes convolutions inside a loop several times slower on CPU, so none for a single step.
            state, metrics = train_step(state, inputs, teacher_variables)
            return state, jax.tree.map(lambda value: value[None], metrics)
        return jax.lax.scan(lambda carry, _: train_step(carry, inputs, teacher_variables), state, length=steps)

    return parallel.jit(call, mesh, donate_argnums=0)
