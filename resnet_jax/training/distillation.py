"""Knowledge distillation (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network")."""

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
    """A trained model whose predictions a student learns to match.

    Attributes:
      model: the Linen module.
      variables: the variables of `model`. Compiled functions take them as an argument.
      preprocess: the preprocessing that the teacher was trained with.
      weight: weight of the soft-target loss, in [0, 1]. The loss on the labels has the weight 1 - weight.
      temperature: divides the logits of both teacher and student; positive.
    """

    model: nn.Module
    variables: dict
    preprocess: Preprocess
    weight: float
    temperature: float

    def logits(self, variables: dict, images: jax.Array) -> jax.Array:
        """Return the teacher's logits.

        Args:
          variables: the variables of the teacher.
          images: augmented, not normalized, [batch, height, width, channels] in [0, 255].

        Returns:
          float32 [batch, classes].
        """
        # Linen declares that `apply` may return a pair, which it does only if some collection is mutable.
        return self.model.apply(variables, self.preprocess(images), train=False)  # type: ignore[return-value]

    def loss(self, logits: jax.Array, teacher_logits: jax.Array, label_loss: jax.Array) -> jax.Array:
        """Return weight * soft_loss + (1 - weight) * label_loss."""
        soft = soft_loss(logits, teacher_logits, self.temperature)
        return self.weight * soft + (1 - self.weight) * label_loss


def make_teacher(loss: ConfigDict, trained: TrainedModel) -> Teacher:
    """Make a teacher of a trained model, with the weight and temperature in the `loss` section of the config."""
    return Teacher(trained.model, trained.variables, trained.preprocess, loss.distill_weight, loss.temperature)


def soft_loss(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """Return the mean KL(teacher || student) of the softmaxes at `temperature`, times temperature squared.

    The squared temperature keeps the size of the gradients independent of the temperature (section 2.1).

    Args:
      logits: the logits of the student, float32 [batch, classes].
      teacher_logits: the logits of the teacher, float32 [batch, classes].
      temperature: positive.

    Returns:
      A float32 scalar.

    Example:
      >>> teacher_logits = jnp.array([[3.0, -1.0]])
      >>> float(soft_loss(teacher_logits, teacher_logits, temperature=4.0))
      0.0
    """
    student = jax.nn.log_softmax(logits / temperature)
    teacher = jax.nn.log_softmax(teacher_logits / temperature)
    return temperature**2 * jnp.mean(optax.losses.kl_divergence_with_log_targets(student, teacher))
