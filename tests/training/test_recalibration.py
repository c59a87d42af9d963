import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import resnet_jax
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.training import experiment as experiments
from resnet_jax.training.recalibration import make_recalibrate
from tests.training.test_train_step import build


@pytest.fixture
def averaged_config(tiny_config):
    tiny_config.ema_decay, tiny_config.ema_recalibrate_steps = 0.9, 3
    return tiny_config


def recalibrated(config, mesh, step):
    experiment = build(config, mesh)
    state = experiment.initial_state()
    return experiment, state, make_recalibrate(experiment)(state, step, lambda: False)


def test_statistics_of_the_stem_are_those_of_its_outputs(averaged_config, single_device):
    """The stem is a convolution without bias. Its outputs are averaged here without the model."""
    experiment, state, result = recalibrated(averaged_config, single_device, step=4)
    kernel = state.params["stem_conv"]["kernel"]
    means, variances = [], []
    for step in (1, 2, 3):
        images = experiment.preprocess(experiment.batch_at(step)[0])
        outputs = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        means.append(outputs.mean((0, 1, 2)))
        variances.append(outputs.var((0, 1, 2)))
    statistics = result.ema["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(statistics["mean"], np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["var"], np.mean(variances, axis=0), rtol=1e-4)


def test_one_recalibrated_batch_is_evaluated_as_it_is_trained(averaged_config, single_device):
    averaged_config.ema_recalibrate_steps = 1
    experiment, _, result = recalibrated(averaged_config, single_device, step=1)
    images = experiment.preprocess(experiment.batch_at(0)[0])
    trained, _ = experiment.model.apply(result.ema, images, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(experiment.model.apply(result.ema, images, train=False), trained, rtol=1e-3, atol=1e-4)


def test_microbatches_are_recalibrated_like_those_of_the_step(averaged_config, single_device):
    averaged_config.ema_recalibrate_steps, averaged_config.optimizer.accumulate_steps = 1, 2
    experiment, state, result = recalibrated(averaged_config, single_device, step=1)
    images = experiment.preprocess(experiment.batch_at(0)[0])
    model = experiment.model.clone(norm_momentum=0.0)
    halves = [
        model.apply(state.variables, half, train=True, mutable=["batch_stats"])[1]["batch_stats"]
        for half in (images[:32], images[32:])
    ]
    expected = jax.tree.map(lambda first, second: (first + second) / 2, *halves)
    for name, value in flatten_dict(result.ema["batch_stats"]).items():
        np.testing.assert_allclose(value, flatten_dict(expected)[name], rtol=1e-4, atol=1e-5)


def test_recalibration_can_be_interrupted(averaged_config, single_device):
    experiment = build(averaged_config, single_device)
    calls = []
    state = experiment.initial_state()
    assert make_recalibrate(experiment)(state, 4, lambda: calls.append(None) or len(calls) == 2) is None
    assert len(calls) == 2


def test_recalibration_changes_only_averaged_statistics(averaged_config, single_device):
    _, state, result = recalibrated(averaged_config, single_device, step=4)
    jax.tree.map(np.testing.assert_array_equal, result.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, result.batch_stats, state.batch_stats)
    jax.tree.map(np.testing.assert_array_equal, result.ema["params"], state.ema["params"])


def test_recalibration_does_not_depend_on_the_number_of_devices(averaged_config, single_device):
    _, _, expected = recalibrated(averaged_config, single_device, step=4)
    _, _, result = recalibrated(averaged_config, parallel.make_mesh(), step=4)
    for name, value in flatten_dict(result.ema["batch_stats"]).items():
        np.testing.assert_allclose(value, flatten_dict(expected.ema["batch_stats"])[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feed", ["resident", pytest.param("streaming", marks=pytest.mark.slow)])
def test_run_evaluates_and_saves_recalibrated_statistics(averaged_config, tmp_path, feed):
    """A large decay leaves the averaged statistics at their initial values: means of zero."""
    averaged_config.ema_decay, averaged_config.dataset.feed = 0.0, feed
    averaged_config.batch_norm.momentum = 0.999999
    averaged_config.dataset.validation_split = "none"
    resnet_jax.train(averaged_config, str(tmp_path / "run"))
    trained = resnet_jax.load_run(str(tmp_path / "run"))
    assert float(jnp.abs(trained.variables["batch_stats"]["stem_norm"]["mean"]).max()) > 0.01


@pytest.mark.parametrize("changes", [{"ema_decay": None}, {"model.norm": "group_norm"}])
def test_run_without_averaged_batch_statistics_is_rejected(averaged_config, mesh, changes):
    averaged_config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match="ema_recalibrate_steps needs ema_decay and a model with batch_norm"):
        experiments.check(averaged_config, mesh)
