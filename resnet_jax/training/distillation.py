"""Learning from another network (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network")."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from resnet_jax.data.preprocess import Preprocess
from resnet_jax.trained_model import TrainedModel


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network, and how much is learned from it.

    Attributes:
      model: a Linen module.
      preprocess: of the pictures, as the teacher was trained with.
      weight: of its soft targets in the loss; the labels have the rest.
      temperature: that both networks' logits are divided by.
    """

    model: nn.Module
    preprocess: Preprocess
    weight: float
    temperature: float

    def logits(self, variables: dict, images: jax.Array) -> jax.Array:
        """Of augmented pictures [batch, height, width, channels], not normalised: float32 [batch, classes]."""
        return self.model.apply(variables, self.preprocess(images), train=False)

    def loss(self, logits: jax.Array, teacher_logits: jax.Array, loss_of_labels: jax.Array) -> jax.Array:
        """weight * soft_loss + (1 - weight) * loss_of_labels."""
        soft = soft_loss(logits, teacher_logits, self.temperature)
        return self.weight * soft + (1 - self.weight) * loss_of_labels


def teacher_of(loss: ConfigDict, run: TrainedModel | None) -> Teacher | None:
    """The network of `run` as a teacher, as `config.loss` says; None without one."""
    return run and Teacher(run.model, run.preprocess, loss.distill_weight, loss.temperature)


def soft_loss(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """The mean divergence KL(teacher || student) of the softmaxes at a temperature, times its square (section 2.1).

    The square keeps the gradients as large at any temperature.

    Args:
      logits, teacher_logits: float32 [batch, classes].
      temperature: positive.
    """
    student, teacher = (jax.nn.log_softmax(of / temperature) for of in (logits, teacher_logits))
    return temperature**2 * jnp.mean(optax.losses.kl_divergence_with_log_targets(student, teacher))
