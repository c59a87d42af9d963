"""What a step minimises: the loss of a batch, as a function of the parameters that are trained."""

from collections.abc import Callable

import flax.linen as nn
import jax

from resnet_jax import randomness
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.randomness import Use
from resnet_jax.training.distillation import Teacher
from resnet_jax.training.freezing import NOTHING_FROZEN, Freezing, merge
from resnet_jax.training.losses import Loss
from resnet_jax.training.state import TrainState

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
