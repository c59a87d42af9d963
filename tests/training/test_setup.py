import numpy as np
import pytest

from resnet_jax.data.preprocess import channel_statistics
from resnet_jax.data.sources import open_dataset
from resnet_jax.errors import UserError
from resnet_jax.training import setup as setups


def test_fills_in_what_the_settings_leave_open(tiny_config, mesh):
    setup = setups.prepare(tiny_config, mesh, open_dataset("digits"), None)
    feed_images = np.asarray(setup.feed.epoch(0).pixels).reshape(-1, 8, 8, 1)
    assert (setup.config.dataset.mean, setup.config.dataset.std) == channel_statistics(feed_images)
    assert setup.config.steps_per_call == 1  # On CPU.
    assert tiny_config.dataset.mean is None  # The caller's settings are left alone.
    assert setup.sizes == {"training": 360, "validation": 40}
    assert setup.total_steps == 2 * (360 // 64)


def test_keeps_what_the_settings_say(tiny_config, mesh):
    tiny_config.dataset.mean, tiny_config.dataset.std, tiny_config.steps_per_call = (0.5,), (0.25,), 3
    setup = setups.prepare(tiny_config, mesh, open_dataset("digits"), None)
    assert (setup.preprocess.mean, setup.preprocess.std, setup.config.steps_per_call) == ((0.5,), (0.25,), 3)
    assert setup.compile_steps().keys() == {1, 3}  # Five steps an epoch: one call of three, two of one.


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 100, "batch_size 100 is not divisible by the 8 devices"),
        ("model.name", "resnet19", "unknown model 'resnet19'"),
        ("optimizer.name", "sgdd", "unknown optimizer"),
        ("schedule.name", "cosin", "unknown schedule"),
        ("loss.name", "softmax", "unknown loss"),
    ],
)
def test_names_and_sizes_are_checked_before_data_is_read(tiny_config, mesh, key, value, message):
    section, _, name = key.rpartition(".")
    (tiny_config[section] if section else tiny_config)[name] = value
    with pytest.raises(UserError, match=message):
        setups.check(tiny_config, mesh)
