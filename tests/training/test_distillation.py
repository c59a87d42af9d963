import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import open_sources
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as experiments
from resnet_jax.training.distillation import Teacher, soft_loss
from resnet_jax.training.train_step import compile_train_steps


def test_soft_loss_equals_a_value_computed_by_hand():
    """At temperature 2 the teacher predicts (3/4, 1/4) and the student (1/2, 1/2): 4 * (3/4 ln 3/2 + 1/4 ln 1/2)."""
    teacher = jnp.array([[2 * np.log(3.0), 0.0]])
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    np.testing.assert_allclose(soft_loss(jnp.zeros((1, 2)), teacher, 2.0), expected, rtol=1e-5)


def test_soft_loss_of_equal_logits_has_no_gradient():
    logits = jax.random.normal(jax.random.key(0), (5, 10))
    gradients = jax.grad(lambda logits_: soft_loss(logits_, logits, 3.0))(logits)
    np.testing.assert_allclose(gradients, 0, atol=1e-6)


def test_soft_loss_gradient_at_a_high_temperature_is_the_difference_of_the_logits():
    """Hinton et al. 2015, section 2.1: for zero-mean logits, it is (student - teacher) / classes per example."""
    student, teacher = (jax.random.normal(jax.random.key(key), (3, 4)) for key in (0, 1))
    student, teacher = (logits - logits.mean(-1, keepdims=True) for logits in (student, teacher))
    gradients = jax.grad(lambda logits: soft_loss(logits, teacher, 1000.0))(student)
    np.testing.assert_allclose(gradients, (student - teacher) / 4 / 3, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 3.0), (1.0, 1.0), (0.25, 2.5)])
def test_teacher_loss_is_the_weighted_mean_of_soft_loss_and_label_loss(weight, expected):
    teacher = Teacher(None, {}, Preprocess((0.5,), (0.5,)), weight, temperature=1.0)
    logits, teacher_logits = jnp.zeros((1, 2)), jnp.array([[np.log(3.0), 0.0]])
    soft = soft_loss(logits, teacher_logits, 1.0)
    mixed = teacher.loss(logits, teacher_logits, 3.0 * soft)
    np.testing.assert_allclose(mixed, expected * soft, rtol=1e-6)


@pytest.fixture(scope="module")
def teacher_workdir(tmp_path_factory):
    """The run directory of the teacher, which the first test to use `teacher` creates."""
    return tmp_path_factory.mktemp("runs") / "teacher"


@pytest.fixture
def teacher(teacher_workdir, tiny_config):
    if not (teacher_workdir / "result.json").exists():
        config = tiny_config.copy_and_resolve_references()
        config.num_epochs, config.batch_size = 10, 32
        config.evaluate_every_epochs = config.checkpoint.every_epochs = 10
        assert resnet_jax.train(config, str(teacher_workdir))["test"]["top1"] > 0.5
    return str(teacher_workdir)


@pytest.mark.slow
def test_student_learns_without_labels_from_a_teacher(tiny_config, teacher, tmp_path):
    tiny_config.num_epochs, tiny_config.batch_size, tiny_config.seed = 10, 32, 1
    tiny_config.evaluate_every_epochs = tiny_config.checkpoint.every_epochs = 10
    tiny_config.loss.distill_from, tiny_config.loss.distill_weight = teacher, 1.0
    assert resnet_jax.train(tiny_config, str(tmp_path / "student"))["test"]["top1"] > 0.5


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        pytest.param({"augment.mixup": 0.4, "augment.rotation": 20.0}, (64, 8, 8, 1), id="mixup"),
        pytest.param(
            {"augment.cutmix": 1.0, "steps_per_call": 2},
            (64, 8, 8, 1),
            marks=pytest.mark.slow,
            id="two steps per call",
        ),
        pytest.param(
            {"augment.random_resized_crop": (0.5, 1.0), "dataset.image_size": 12},
            (64, 12, 12, 1),
            marks=pytest.mark.slow,
            id="other size",
        ),
    ],
)
def test_teacher_and_student_get_the_same_augmented_images(tiny_config, tiny_run, single_device, settings, shape):
    """The images are resized to the size that the teacher was trained on."""
    teacher = str(tiny_run)
    tiny_config.loss.distill_from, tiny_config.loss.distill_weight, tiny_config.loss.temperature = teacher, 1.0, 2.0
    tiny_config.update_from_flattened_dict(settings)
    experiment = experiments.build(
        tiny_config, single_device, open_sources("digits"), Reporter(active=False, max_unreadable=0)
    )
    images, _ = experiment.batch_at(0)
    state = experiment.initial_state()
    trained = resnet_jax.load_run(teacher, single_device)
    logits, _ = experiment.model.apply(
        state.variables, experiment.preprocess(images), train=True, mutable=["batch_stats"]
    )
    resized = jax.image.resize(images.astype(jnp.float32), (64, 8, 8, 1), "bilinear")
    teacher_logits = trained.model.apply(trained.variables, trained.preprocess(resized), train=False)
    expected = soft_loss(logits, teacher_logits, 2.0)
    step = compile_train_steps(experiment)[experiment.call(0)]
    _, metrics = step(state, experiment.feed.inputs(0))
    assert images.shape == shape
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-4)


def test_teacher_with_other_classes_is_an_error(tiny_config, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "other")
    (tmp_path / "other" / "classes.json").write_text(json.dumps([f"class {n}" for n in range(10)]))
    tiny_config.loss.distill_from = str(tmp_path / "other")
    with pytest.raises(UserError, match="has different classes from the dataset"):
        resnet_jax.train(tiny_config, str(tmp_path / "student"))
