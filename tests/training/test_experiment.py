import numpy as np
import pytest

from resnet_jax.data.preprocess import channel_statistics
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.errors import UserError
from resnet_jax.training import experiment as setups

UNREADABLE = UnreadableImages(0, print)


def test_fills_in_what_the_settings_leave_open(tiny_config, mesh):
    experiment = setups.prepare(tiny_config, mesh, open_sources("digits"), UNREADABLE)
    feed_images = np.asarray(experiment.feed.inputs(0).pixels).reshape(-1, 8, 8, 1)
    assert (experiment.config.dataset.mean, experiment.config.dataset.std) == channel_statistics(feed_images)
    assert experiment.config.steps_per_call == 1  # On CPU.
    assert tiny_config.dataset.mean is None  # The caller's settings are left alone.
    assert experiment.sizes == {"training": 360, "validation": 40}
    assert experiment.total_steps == 2 * (360 // 64)


def test_keeps_what_the_settings_say(tiny_config, mesh):
    tiny_config.dataset.mean, tiny_config.dataset.std, tiny_config.steps_per_call = (0.5,), (0.25,), 3
    experiment = setups.prepare(tiny_config, mesh, open_sources("digits"), UNREADABLE)
    assert (experiment.preprocess.mean, experiment.preprocess.std, experiment.config.steps_per_call) == (
        (0.5,),
        (0.25,),
        3,
    )
    assert experiment.compile_steps().keys() == {1, 3}  # Five steps an epoch: one call of three, two of one.


@pytest.mark.parametrize(
    ("steps_per_epoch", "steps_per_call"),
    [(351, 27), (64, 32), (353, 32), (5, 5)],
)
def test_steps_per_call_divide_the_epoch_where_they_can(steps_per_epoch, steps_per_call):
    assert setups._most_steps(steps_per_epoch) == steps_per_call


def test_normalisation_for_another_number_of_channels_is_refused(tiny_config, mesh):
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.5,) * 2, (0.2,) * 2
    with pytest.raises(UserError, match="mean and deviation are of 2 channels, and the pictures have 1"):
        setups.prepare(tiny_config, mesh, open_sources("digits"), UNREADABLE)


@pytest.mark.parametrize(("crop", "size"), [((), 8), ((0.5, 1.0), 16)])
def test_small_grey_pictures_are_augmented_as_they_are_and_random_crops_come_in_the_final_size(
    tiny_config, mesh, crop, size
):
    tiny_config.dataset.image_size = 16
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.5, 0.45, 0.4), (0.2,) * 3
    tiny_config.augment.random_resized_crop, tiny_config.augment.cutout = crop, 4
    images, _ = setups.prepare(tiny_config, mesh, open_sources("digits"), UNREADABLE).batch(0)
    assert images.shape == (64, size, size, 1)
    assert (images == 115).any((1, 2, 3)).all()  # What is erased is of the mean grey, 0.45 * 255.


def test_splits_with_other_classes_are_refused(tiny_config, mesh):
    digits = open_sources("digits")
    other = ArraySource(digits["test"].images, digits["test"].labels, [f"digit {i}" for i in range(11)])
    with pytest.raises(UserError, match=r"different classes \(10 in train, 11 in test\)"):
        setups.prepare(tiny_config, mesh, {"train": digits["train"], "test": other}, UNREADABLE)


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
