"""The training state, which checkpoints hold."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from resnet_jax import randomness
from resnet_jax.randomness import Use
from resnet_jax.training.freezing import NOTHING_FROZEN, Freezing

Metrics = dict[str, jax.Array]  # metrics of the steps of a call, by name


@flax.struct.dataclass
class TrainState:
    """Everything that a train step changes. With the settings and the data, it determines the rest of the run.

    Attributes:
      step: int32, the number of steps taken.
      params: the parameters, float32.
      batch_stats: running means and variances of the BatchNorms, float32.
      opt_state: the state of the optimizer, for the parameters that are not frozen.
      ema: exponential moving averages, `{"params": ..., "batch_stats": ...}`, or {} if the run keeps none.
    """

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    ema: dict

    @property
    def online_variables(self) -> dict:
        """The variables that the optimizer updates, for `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def variables(self) -> dict:
        """The moving averages if there are any, otherwise `online_variables`."""
        return self.ema or self.online_variables

    @property
    def checkpoint_items(self) -> dict[str, Any]:
        """The items of a checkpoint, by name. The step is not an item, because the checkpoint is named after it."""
        return {
            "params": self.params,
            "batch_stats": self.batch_stats,
            "opt_state": self.opt_state,
            "ema": self.ema,
        }


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    freezing: Freezing = NOTHING_FROZEN,
    use_ema: bool = False,
) -> TrainState:
    """Return the state before the first step, with initial weights that are a function of the seed.

    Do not wrap this in `jax.jit`. Without `jit`, JAX compiles one small program per distinct array shape and uses it
    for all arrays of that shape. So even models with hundreds of layers are initialized within seconds.

    Args:
      model: the Linen module.
      optimizer: creates the optimizer state.
      image_shape: (height, width, channels).
      seed: the seed of the initial weights.
      freezing: selects the parameters that have no optimizer state.
      use_ema: whether to keep moving averages of the variables.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = model.lazy_init(randomness.key(seed, Use.INITIAL_WEIGHTS), images, train=False)
    return train_state_from_variables(variables, optimizer, freezing, use_ema)


def train_state_from_variables(
    variables: Mapping, optimizer: optax.GradientTransformation, freezing: Freezing, use_ema: bool
) -> TrainState:
    """Return the state before the first step for a model with these variables; see `create_train_state`."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(freezing.split(params)[0]),
        ema={"params": params, "batch_stats": batch_stats} if use_ema else {},
    )
