import numpy as np
import pytest

from resnet_jax.data.preprocess import channel_statistics
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.errors import UserError
from resnet_jax.models.whitening import patch_whitening_kernel
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as experiments
from resnet_jax.training.experiment import Call
from resnet_jax.training.train_step import SINGLE_STEP, compile_train_steps


def build(config, mesh, sources=None):
    reporter = Reporter(active=False, max_unreadable=0)
    return experiments.build(config, mesh, sources or open_sources("digits"), reporter)


def test_build_resolves_unset_settings(tiny_config, mesh):
    experiment = build(tiny_config, mesh)
    feed_images = np.asarray(experiment.feed.inputs(0).pixels).reshape(-1, 8, 8, 1)
    assert (experiment.config.dataset.mean, experiment.config.dataset.std) == channel_statistics(feed_images)
    assert experiment.config.steps_per_call == 1  # On CPU.
    assert tiny_config.dataset.mean is None  # The caller's settings are not changed.
    assert experiment.split_sizes == {"training": 360, "validation": 40}
    assert experiment.total_steps == 2 * (360 // 64)


def test_build_keeps_settings_that_are_set(tiny_config, mesh):
    tiny_config.dataset.mean, tiny_config.dataset.std, tiny_config.steps_per_call = (0.5,), (0.25,), 3
    experiment = build(tiny_config, mesh)
    assert (experiment.preprocess.mean, experiment.preprocess.std) == ((0.5,), (0.25,))
    assert experiment.config.steps_per_call == 3
    # Five steps per epoch: one call of three, two of one.
    assert compile_train_steps(experiment).keys() == {Call(1), Call(3)}


def test_calls_of_epoch_end_with_the_epoch(tiny_config, mesh):
    tiny_config.steps_per_call = 3
    experiment = build(tiny_config, mesh)
    assert list(experiment.calls_of_epoch(0)) == [(0, Call(3)), (3, Call(1)), (4, Call(1))]
    assert list(experiment.calls_of_epoch(8)) == [(8, Call(1)), (9, Call(1))]
    assert experiment.calls() == [Call(3), Call(1)]


def test_early_epochs_have_the_image_sizes_of_progressive_resizing(tiny_config, mesh):
    tiny_config.num_epochs = 4
    tiny_config.augment.progressive_resizing = ("4=0.3", "6=0.75")
    experiment = build(tiny_config, mesh)
    assert [experiment.call(5 * epoch).image_size for epoch in range(4)] == [4, 4, 6, None]
    assert experiment.calls() == [Call(1, 4), Call(1, 6), Call(1)]
    assert experiment.calls(step=10) == [Call(1, 6), Call(1)]  # Those that are left for a resumed run.
    assert experiment.resizing_to(6).preprocess(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 6, 6, 1)


@pytest.mark.parametrize(
    ("steps_per_epoch", "steps_per_call"),
    [(351, 27), (64, 32), (353, 32), (5, 5)],
)
def test_steps_per_call_divide_the_epoch_where_possible(steps_per_epoch, steps_per_call):
    assert experiments._most_steps_per_call(steps_per_epoch) == steps_per_call


def test_mean_with_more_channels_than_the_images_is_refused(tiny_config, mesh):
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.5,) * 2, (0.2,) * 2
    with pytest.raises(UserError, match=r"2 channels.* 1"):
        build(tiny_config, mesh)


@pytest.mark.parametrize(("crop", "size"), [((), 8), ((0.5, 1.0), 16)])
def test_resident_images_are_augmented_at_their_own_size_and_cropped_to_the_final_size(tiny_config, mesh, crop, size):
    tiny_config.dataset.image_size = 16
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.5, 0.45, 0.4), (0.2,) * 3
    tiny_config.augment.random_resized_crop, tiny_config.augment.cutout = crop, 4
    images, _ = build(tiny_config, mesh).batch_at(0)
    assert images.shape == (64, size, size, 1)
    assert (images == 115).any((1, 2, 3)).all()  # Erased pixels have the mean gray level, 0.45 * 255.


def test_batch_at_returns_the_examples_of_the_step(tiny_config, mesh):
    tiny_config.augment.crop_padding = 0
    experiment = build(tiny_config, mesh)
    images, labels = experiment.batch_at(0)
    inputs = experiment.feed.inputs(0)
    np.testing.assert_array_equal(labels, np.asarray(inputs.labels)[inputs.order[0]])
    np.testing.assert_array_equal(images, np.asarray(inputs.pixels)[inputs.order[0]].reshape(-1, 8, 8, 1))
    assert images.dtype == np.uint8


def test_initial_state_depends_on_the_seed_alone(tiny_config, mesh, single_device):
    def kernel(devices):
        return np.asarray(build(tiny_config, devices).initial_state().params["stem_conv"]["kernel"])

    on_eight = kernel(mesh)
    np.testing.assert_array_equal(on_eight, kernel(single_device))
    tiny_config.seed = 1
    assert (on_eight != kernel(mesh)).all()


def whitening_experiment(config, mesh):
    config.model.stem, config.model.shortcut = "whitening", "projection"
    config.freeze = ("stem_conv/kernel",)
    return build(config, mesh)


def test_whitening_stem_starts_from_the_images_of_the_first_step_and_stays(tiny_config, mesh):
    tiny_config.augment.crop_padding = 2
    experiment = whitening_experiment(tiny_config, mesh)
    inputs, state = experiment.feed.inputs(0), experiment.initial_state()
    images = np.asarray(inputs.pixels)[inputs.order[0]].reshape(-1, 8, 8, 1)
    expected = patch_whitening_kernel(np.asarray(experiment.preprocess(images)))
    np.testing.assert_allclose(np.abs(state.params["stem_conv"]["kernel"]), np.abs(expected), rtol=1e-3)
    kernel = np.asarray(state.params["stem_conv"]["kernel"])
    state, _ = compile_train_steps(experiment)[SINGLE_STEP](state, inputs)
    np.testing.assert_array_equal(state.params["stem_conv"]["kernel"], kernel)


def test_alternating_flip_mirrors_every_example_in_one_of_two_epochs(tiny_config, mesh):
    tiny_config.augment.crop_padding, tiny_config.batch_size = 0, 360
    tiny_config.augment.horizontal_flip, tiny_config.augment.alternating_flip = False, True
    experiment = build(tiny_config, mesh)
    batches = []
    for epoch in (0, 1):
        inputs = experiment.feed.inputs(epoch)
        original = np.asarray(inputs.pixels)[inputs.order[0]].reshape(-1, 8, 8, 1)
        mirrored = (np.asarray(experiment.batch_at(epoch)[0]) != original).any((1, 2, 3))
        batches.append(set(np.asarray(inputs.order[0])[mirrored].tolist()))
    assert batches[0].isdisjoint(batches[1])
    assert len(batches[0] | batches[1]) > 350  # a few digits are symmetric


def test_splits_with_different_classes_are_refused(tiny_config, mesh):
    digits = open_sources("digits")
    other = ArraySource(digits["test"].images, digits["test"].labels, [f"digit {i}" for i in range(11)])
    with pytest.raises(UserError, match=r"different classes \(10 in train, 11 in test\)"):
        build(tiny_config, mesh, {"train": digits["train"], "test": other})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 100, r"batch_size=100 is not divisible by the number of devices \(8\)"),
        ("model.name", "resnet19", "unknown model 'resnet19'"),
        ("optimizer.name", "sgdd", "unknown optimizer"),
        ("schedule.name", "cosin", "unknown schedule"),
        ("loss.name", "softmax", "unknown loss"),
        ("model.activation", "swish", "unknown model.activation 'swish'"),
        ("tta", "mirror", "unknown tta 'mirror'"),
        ("augment.crop_border", "grey", "unknown augment.crop_border 'grey'"),
        ("model.norm", "bias", "optimizer.fixed_kernel_norm works only with norms after convolutions"),
        ("model.name", "airbench94", "optimizer.fixed_kernel_norm would change the scale of the whitening stem"),
    ],
)
def test_check_refuses_unknown_names_and_indivisible_batches_without_data(tiny_config, mesh, key, value, message):
    section, _, name = key.rpartition(".")
    (tiny_config[section] if section else tiny_config)[name] = value
    tiny_config.optimizer.fixed_kernel_norm = True
    with pytest.raises(UserError, match=message):
        experiments.check(tiny_config, mesh)


@pytest.mark.parametrize(("group_size", "is_warned"), [(16, False), (64, True), (0, False)])
def test_batch_norm_groups_in_two_slices_cause_a_warning(tiny_config, mesh, monkeypatch, caplog, group_size, is_warned):
    monkeypatch.setattr(experiments.parallel, "num_slices", lambda devices: 2)
    tiny_config.batch_norm.group_size = group_size
    experiments.check(tiny_config, mesh)  # 64 examples, 32 per slice
    assert ("Some BatchNorm groups lie in two slices" in caplog.text) == is_warned
