"""Batch statistics that fit averaged weights.

A moving average of the running statistics lags behind the moving average of the weights, and never belonged to these
weights. Recalibration replaces it by the statistics that the averaged weights themselves have on training batches, as
Izmailov et al. 2018 do for weights that are averaged in another way ("Averaging Weights Leads to Wider Optima and
Better Generalization", section 3.2).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax import randomness
from resnet_jax.data.feed import Inputs
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.training import pretraining
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import mean_over_microbatches


def make_batch_statistics(experiment: Experiment) -> Callable[[dict, dict, Inputs, int], dict]:
    """Return a compiled function from (params, batch_stats, inputs, step) to the statistics of the batch of that step.

    The images are augmented as in training, and computed in microbatches like those of the step.
    """
    # Without momentum, the running statistics after a batch are those of the batch.
    model = experiment.model.clone(norm_momentum=0.0)

    def batch_statistics(params: dict, batch_stats: dict, inputs: Inputs, step: jax.Array) -> dict:
        def of_microbatch(images: jax.Array, index: jax.Array | None) -> dict:
            key = randomness.key(experiment.config.seed, Use.DROPOUT, step)
            if index is not None:
                key = jax.random.fold_in(key, index)
            if experiment.second_augment is not None:
                images = pretraining.as_images(images)
            with nn.intercept_methods(experiment.freezing.batch_norm_interceptor()):
                _, updated = model.apply(
                    {"params": params, "batch_stats": batch_stats},
                    experiment.preprocess(images),
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": key},
                )
            return updated["batch_stats"]

        images, _ = experiment.batch(inputs, step)
        return mean_over_microbatches(
            of_microbatch, images, experiment.config.optimizer.accumulate_steps, experiment.mesh
        )

    return parallel.jit(batch_statistics, experiment.mesh)


class Recalibrate(Protocol):
    """Function that recalibrates batch statistics; see `make_recalibrate`."""

    def __call__(self, state: TrainState, step: int, interrupted: Callable[[], object]) -> TrainState | None:
        """Return the state with recalibrated `ema["batch_stats"]`.

        Return None if `interrupted`, called after each batch, returns true.
        """


def make_recalibrate(experiment: Experiment) -> Recalibrate:
    """Return a function that recalibrates the batch statistics of the averaged weights.

    The statistics are the means over the training batches of the last `ema_recalibrate_steps` steps. With fewer steps
    so far, all of them count.
    """
    batch_statistics = make_batch_statistics(experiment)
    update_mean = parallel.jit(
        lambda mean, values, count: jax.tree.map(lambda mean, value: mean + (value - mean) / count, mean, values),
        experiment.mesh,
    )

    def recalibrate(state: TrainState, step: int, interrupted: Callable[[], object]) -> TrainState | None:
        ema = state.ema
        mean = jax.tree.map(jnp.zeros_like, ema["batch_stats"])
        pace = parallel.pace_of_independent_calls(experiment.mesh)
        steps = range(max(0, step - experiment.config.ema_recalibrate_steps), step)
        for count, earlier_step in enumerate(steps, start=1):
            inputs = experiment.feed.inputs(earlier_step)
            statistics = batch_statistics(ema["params"], ema["batch_stats"], inputs, earlier_step)
            mean = update_mean(mean, statistics, count)
            pace(mean)
            if interrupted():
                return None
        return dataclasses.replace(state, ema={**ema, "batch_stats": mean})

    return recalibrate
