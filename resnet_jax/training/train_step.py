"""The train step, written out as one pure function, and its compilation.

`train_step` reads from top to bottom: batch and augmentation, loss and gradients (in microbatches), update, moving
average. The functions that it calls follow, and then the functions that compile it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax import randomness
from resnet_jax.data.feed import Inputs
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.training import memory_estimate, pretraining
from resnet_jax.training.experiment import Call, Experiment
from resnet_jax.training.freezing import merge
from resnet_jax.training.state import Metrics, TrainState

SINGLE_STEP = Call()
TrainStep = Callable[[TrainState, Inputs], tuple[TrainState, Metrics]]  # compiled, for one or several steps

# --- The step ---------------------------------------------------------------------------------------------------------


def train_step(
    experiment: Experiment, state: TrainState, inputs: Inputs, teacher_variables: dict | None = None
) -> tuple[TrainState, Metrics]:
    """Take one optimization step.

    Args:
      experiment: model, optimizer, preprocessing and settings; a constant of the compiled program.
      state: the state before the step, replicated over the devices.
      inputs: what `Feed.inputs` returned for the call to which the step belongs.
      teacher_variables: variables of the distillation teacher, if there is one. They are an argument, so that they do
        not become constants of the compiled program.

    Returns:
      The next state, and the metrics of this step, each a float32 scalar: `loss`, those of `loss_fn`, `learning_rate`
      and `gradient_norm`.
    """
    config = experiment.config
    images, labels = experiment.batch(inputs, state.step)

    # Loss and gradients. The backward pass ends at the lowest layer that is not frozen.
    trainable, frozen = experiment.freezing.split(state.params)
    loss_and_gradients = jax.value_and_grad(functools.partial(loss_fn, experiment), has_aux=True)

    def forward_and_backward(
        microbatch: tuple[jax.Array, jax.Array], index: jax.Array | None
    ) -> tuple[dict, dict, Metrics]:
        images, labels = microbatch
        (loss, (_, metrics, updated)), gradients = loss_and_gradients(
            trainable, state, images, labels, teacher_variables, index
        )
        return gradients, updated.get("batch_stats", {}), {"loss": loss, **metrics}

    gradients, batch_stats, metrics = mean_over_microbatches(
        forward_and_backward, (images, labels), config.optimizer.accumulate_steps, experiment.mesh
    )
    metrics["learning_rate"] = jnp.asarray(experiment.schedule(state.step), jnp.float32)
    metrics["gradient_norm"] = optax.tree.norm(gradients)

    # Update.
    updates, opt_state = experiment.optimizer.update(gradients, state.opt_state, trainable)
    params = merge(optax.apply_updates(trainable, updates), frozen)

    # Moving averages of the parameters and statistics. Evaluation uses these averages.
    ema = state.ema
    if config.ema_decay is not None:
        decay = experiment.ema_decay(state.step)
        ema = update_ema(ema, {"params": params, "batch_stats": batch_stats}, decay)

    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics


def loss_fn(
    experiment: Experiment,
    trainable: dict,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    teacher_variables: dict | None = None,
    microbatch_index: jax.Array | None = None,
    extra_collections: Sequence[str] = (),
) -> tuple[jax.Array, tuple[jax.Array, Metrics, Mapping]]:
    """Return the mean loss of a batch, to be differentiated with respect to `trainable`.

    Args:
      experiment: as in `train_step`; only model, preprocessing, loss, freezing, teacher and seed are used.
      trainable: the parameters that are not frozen. Their values in `state` are not used.
      state: the state before the step; its frozen parameters, statistics and step are used.
      images: augmented, not normalized, [batch, height, width, channels] in [0, 255]; in pre-training, [batch, 2, ...].
      labels: int32 [batch], or soft labels float32 [batch, classes]; not used in pre-training.
      teacher_variables: as in `train_step`.
      microbatch_index: int32, so that each microbatch draws its own dropout masks. None if the batch is not divided.
      extra_collections: Linen collections that the model may write to, besides "batch_stats".

    Returns:
      (loss, (logits float32 [batch, classes], metrics, the collections that the model wrote)). The metrics are float32
      scalars: `top1`, see `is_correct`. In pre-training, the features take the place of the logits, and the metrics are
      those of `pretraining.loss`.
    """
    _, frozen = experiment.freezing.split(state.params)
    variables = {"params": merge(trainable, frozen), "batch_stats": state.batch_stats}
    key = randomness.key(experiment.config.seed, Use.DROPOUT, state.step)
    if microbatch_index is not None:
        key = jax.random.fold_in(key, microbatch_index)

    def apply(variables: dict, images: jax.Array):
        with nn.intercept_methods(experiment.freezing.batch_norm_interceptor()):
            return experiment.model.apply(
                variables,
                experiment.preprocess(images),
                train=True,
                mutable=["batch_stats", *extra_collections],
                rngs={"dropout": key},
            )

    if experiment.second_augment is not None:
        images = pretraining.as_images(images)
        outputs, updated = apply(variables, images)
        pretrain = experiment.config.pretrain
        loss, metrics = pretraining.loss(pretrain, outputs, lambda: apply(state.ema, images)[0])
        return loss, (outputs.features, metrics, updated)

    logits, updated = apply(variables, images)
    loss = experiment.loss(logits, labels)
    if experiment.teacher is not None:
        assert teacher_variables is not None
        loss = experiment.teacher.loss(logits, experiment.teacher.logits(teacher_variables, images), loss)
    top1 = jnp.mean(is_correct(logits, labels, experiment.config.dataset.multi_label), dtype=jnp.float32)
    return loss, (logits, {"top1": top1}, updated)


def is_correct(logits: jax.Array, labels: jax.Array, multi_label: bool | None) -> jax.Array:
    """Return whether the most probable class is correct, for each example: bool [batch].

    If the labels are soft, the class with the largest share is the correct one. If an image may have any number of
    labels, each class with a share above 0.5 is correct.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch] or float32 [batch, classes].
      multi_label: whether an image may have any number of labels.
    """
    predictions = jnp.argmax(logits, axis=-1)
    if multi_label:
        return jnp.take_along_axis(labels, predictions[:, None], axis=-1)[:, 0] > 0.5
    return predictions == (labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1))


def update_ema(averages: dict, variables: dict, decay: float | jax.Array) -> dict:
    """Return decay * averages + (1 - decay) * variables.

    Polyak & Juditsky 1992, with the exponential weights of Szegedy et al. 2015 (section 8).

    We do not use `optax.incremental_update`, because it rounds differently: existing runs would no longer resume bit
    for bit.

    Args:
      averages: a tree of float32 arrays.
      variables: a tree of the same structure, after the step.
      decay: in [0, 1).

    Example:
      >>> float(update_ema({"kernel": jnp.array(2.0)}, {"kernel": jnp.array(10.0)}, 0.5)["kernel"])
      6.0
    """
    return jax.tree.map(lambda average, value: average + (1 - decay) * (value - average), averages, variables)


# --- Microbatches: gradient accumulation (skip this unless optimizer.accumulate_steps > 1) ----------------------------
#
# A batch is divided into microbatches that are processed one after another, so that a device holds the activations of
# one microbatch at a time. Each microbatch takes an equal share of every device's examples, so that no example moves to
# another device. For example, let the first of 2 devices hold the examples 0 to 3, and the second 4 to 7. Then the 2
# microbatches are [0, 1, 4, 5] and [2, 3, 6, 7].
#
# Each microbatch starts from the same running statistics of BatchNorm. The step uses the means of gradients, statistics
# and metrics over the microbatches. These equal the values of the whole batch up to rounding on two conditions: each
# BatchNorm group (`batch_norm.group_size`) lies within one device's share of a microbatch, and nothing random is drawn
# per example (dropout, stochastic depth). If the groups are larger, the numbers of microbatches and devices together
# decide which examples share statistics.


def mean_over_microbatches(function: Callable, batch, count: int, mesh: Mesh):
    """Return the mean of the results of `function` over the microbatches of a batch.

    Args:
      function: maps a microbatch and its index, int32, to a pytree of float arrays.
      batch: a pytree of arrays [batch, ...], sharded over the devices.
      count: the number of microbatches; with 1, `function` gets `batch` itself and None as the index.
      mesh: the devices. Their number times `count` must divide the batch size.
    """
    if count == 1:
        return function(batch, None)

    def accumulate(mean, indexed_microbatch: tuple):
        index, microbatch = indexed_microbatch
        result = function(microbatch, index)
        # Written in this way, the mean of equal values is exactly that value. The running statistics of a frozen
        # BatchNorm, for example, do not change.
        return jax.tree.map(lambda mean, value: mean + (value - mean) / (index + 1), mean, result), None

    microbatches = jax.tree.map(lambda array: split_into_microbatches(array, count, mesh), batch)
    first = jax.tree.map(lambda array: array[0], microbatches)
    shapes = jax.eval_shape(function, first, jnp.zeros((), jnp.int32))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # On CPU, XLA runs convolutions several times slower inside a loop, so the loop is unrolled there.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    mean, _ = jax.lax.scan(accumulate, zeros, (jnp.arange(count), microbatches), unroll=on_cpu)
    return mean


def split_into_microbatches(array: jax.Array, count: int, mesh: Mesh) -> jax.Array:
    """Reshape [batch, ...] to [count, batch / count, ...]. Both are sharded by example, and no example moves."""

    def constrain(array: jax.Array, *axes: str | None) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(*axes)))

    by_device = constrain(array.reshape(mesh.size, count, -1, *array.shape[1:]), "data")
    by_microbatch = constrain(jnp.swapaxes(by_device, 0, 1), None, "data")
    return constrain(by_microbatch.reshape(count, -1, *array.shape[1:]), None, "data")


# --- Compilation ------------------------------------------------------------------------------------------------------


def make_train_step(experiment: Experiment, call: Call = SINGLE_STEP) -> jax.stages.Wrapped:
    """Return a `jax.jit` function that takes the consecutive steps of a call.

    Returns:
      A function from (state, inputs), and `teacher_variables` if there is a teacher, to (state, metrics). The state
      passed in is donated. Each metric is float32 [steps]. All steps of a call get the same `inputs`, and each step
      takes its own batch from them.
    """
    experiment = experiment.resizing_to(call.image_size)

    def steps(state: TrainState, inputs: Inputs, teacher_variables: dict | None = None) -> tuple[TrainState, Metrics]:
        if call.num_steps == 1:  # No loop, because on CPU XLA runs convolutions several times slower inside a loop.
            state, metrics = train_step(experiment, state, inputs, teacher_variables)
            return state, jax.tree.map(lambda value: value[None], metrics)
        return jax.lax.scan(
            lambda state, _: train_step(experiment, state, inputs, teacher_variables), state, length=call.num_steps
        )

    return parallel.jit(steps, experiment.mesh, donate_argnums=0)


def lower_train_step(
    experiment: Experiment, call: Call = SINGLE_STEP, state: TrainState | None = None
) -> jax.stages.Lowered:
    """Lower the function that `make_train_step` returns, for devices that need not exist (see `tpu_topology`).

    Args:
      experiment: what to train, and on which devices.
      call: the number of steps per call, and the size of the images.
      state: any state of the run, for its shapes and dtypes. None: trace the model to find them, which takes longer.
    """
    replicated = parallel.replicated(experiment.mesh)
    abstract_state = experiment.abstract_state() if state is None else parallel.abstract(state, replicated)
    arguments = (abstract_state, experiment.feed.abstract_inputs())
    if experiment.teacher is None:
        return make_train_step(experiment, call).lower(*arguments)
    teacher_variables = parallel.abstract(experiment.teacher.variables, replicated)
    return make_train_step(experiment, call).lower(*arguments, teacher_variables=teacher_variables)


def compile_train_steps(
    experiment: Experiment, calls: Sequence[Call] | None = None, state: TrainState | None = None
) -> dict[Call, TrainStep]:
    """Compile the train step for each of the calls.

    Args:
      experiment: what to train.
      calls: default: all of the run.
      state: see `lower_train_step`.

    Raises:
      UserError: if a step does not fit into the memory of the devices.
    """
    train_steps: dict[Call, TrainStep] = {}
    for call in experiment.calls() if calls is None else calls:
        lowered = lower_train_step(experiment, call, state)
        compiled = memory_estimate.compile_step(lowered, experiment.config, experiment.mesh)
        memory_estimate.check(compiled, experiment.feed.streamed_inputs(), experiment.config, experiment.mesh)
        train_steps[call] = compiled
        if experiment.teacher is not None:
            train_steps[call] = functools.partial(compiled, teacher_variables=experiment.teacher.variables)
    return train_steps
