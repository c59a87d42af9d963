"""All that a training step changes."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from resnet_jax import randomness
from resnet_jax.randomness import Use
from resnet_jax.training.freezing import NOTHING_FROZEN, Freezing


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds; with the settings and the data it determines the rest of the run.

    step: int32, steps taken; params: float32; batch_stats: float32, BatchNorm's running means and variances;
    opt_state: the optimizer's, for the parameters that are not frozen; ema: moving averages of params and batch_stats
    under these names, or nothing.
    """

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    ema: dict

    @property
    def variables(self) -> dict:
        """What the run is judged by, as `model.apply` takes it: the averages, if there are any."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def parts(self) -> dict[str, object]:
        """What is saved under names of its own; the step is the checkpoint's."""
        return {
            "params": self.params,
            "batch_stats": self.batch_stats,
            "opt_state": self.opt_state,
            "ema": self.ema,
        }


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    freezing: Freezing = NOTHING_FROZEN,
    averages: bool = False,
) -> TrainState:
    """The state before the first step, as a function of the seed.

    Without `jax.jit` around it, one small program draws all arrays of a shape: deep networks, which have hundreds of
    some shapes, are ready in seconds.

    Args:
      model: a Linen module.
      optimizer: the transformation whose state to make.
      image_shape: (height, width, channels).
      seed: of the initial weights.
      freezing: which parameters need no optimizer state.
      averages: whether to keep moving averages of the variables.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = model.lazy_init(randomness.key(seed, Use.INITIAL_WEIGHTS), images, train=False)
    return begin(variables, optimizer, freezing, averages)


def begin(variables: dict, optimizer: optax.GradientTransformation, freezing: Freezing, averages: bool) -> TrainState:
    """The state before the first step of a network with these variables."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(freezing.split(params)[0]),
        ema={"params": params, "batch_stats": batch_stats} if averages else {},
    )
