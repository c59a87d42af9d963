import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.errors import UserError
from resnet_jax.training.distillation import Teacher, soft_loss


def test_soft_loss_on_numbers_worked_out_by_hand():
    """At temperature 2 the teacher gives (3/4, 1/4), the student (1/2, 1/2): 4 * (3/4 ln 3/2 + 1/4 ln 1/2)."""
    teacher = jnp.array([[2 * np.log(3.0), 0.0]])
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    np.testing.assert_allclose(soft_loss(jnp.zeros((1, 2)), teacher, 2.0), expected, rtol=1e-5)


def test_nothing_is_left_to_learn_from_oneself():
    logits = jax.random.normal(jax.random.key(0), (5, 10))
    gradients = jax.grad(lambda logits_: soft_loss(logits_, logits, 3.0))(logits)
    np.testing.assert_allclose(gradients, 0, atol=1e-6)


def test_gradients_are_as_large_at_any_high_temperature():
    """Hinton et al. 2015, section 2.1: for zero-mean logits, (student - teacher) / classes, for each example."""
    student, teacher = (jax.random.normal(jax.random.key(key), (3, 4)) for key in (0, 1))
    student, teacher = (logits - logits.mean(-1, keepdims=True) for logits in (student, teacher))
    gradients = jax.grad(lambda logits: soft_loss(logits, teacher, 1000.0))(student)
    np.testing.assert_allclose(gradients, (student - teacher) / 4 / 3, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 3.0), (1.0, 1.0), (0.25, 2.5)])
def test_the_two_losses_are_mixed(weight, expected):
    teacher = Teacher(None, Preprocess((0.5,), (0.5,)), weight, 1.0)
    logits, teacher_logits = jnp.zeros((1, 2)), jnp.array([[np.log(3.0), 0.0]])
    soft = soft_loss(logits, teacher_logits, 1.0)
    mixed = teacher.loss(logits, teacher_logits, 3.0 * soft)
    np.testing.assert_allclose(mixed, expected * soft, rtol=1e-6)


def test_a_student_learns_from_a_run_without_seeing_a_label(tiny_config, tmp_path):
    tiny_config.num_epochs, tiny_config.batch_size = 10, 32
    taught = resnet_jax.train(tiny_config, str(tmp_path / "teacher"))
    tiny_config.loss.distill_from, tiny_config.loss.distill_weight = str(tmp_path / "teacher"), 1.0
    tiny_config.seed = 1
    result = resnet_jax.train(tiny_config, str(tmp_path / "student"))
    assert taught["test"]["top1"] > 0.5
    assert result["test"]["top1"] > 0.5


def test_a_teacher_of_other_classes_is_refused(tiny_config, tmp_path):
    resnet_jax.train(tiny_config, str(tmp_path / "teacher"))
    (tmp_path / "teacher" / "classes.json").write_text(str([f"class {n}" for n in range(10)]).replace("'", '"'))
    tiny_config.loss.distill_from = str(tmp_path / "teacher")
    with pytest.raises(UserError, match="tells other classes apart"):
        resnet_jax.train(tiny_config, str(tmp_path / "student"))
