import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from resnet_jax import config as settings
from resnet_jax.data.augment import color, erasing, geometry, mixing, pipeline
from resnet_jax.errors import UserError

FILL = (120.0, 110.0, 100.0)
# For each setting, a value that turns its augmentation on.
ON = {
    "random_resized_crop": (0.3, 1.0),
    "crop_padding": 2,
    "horizontal_flip": True,
    "rotation": 15.0,
    "randaugment": (2, 9, 0.5),
    "trivial_augment": True,
    "color_jitter": (0.4, 0.4, 0.4, 0.1),
    "grayscale": 0.5,
    "gaussian_blur": 0.5,
    "solarize": 0.5,
    "random_erasing": 0.5,
    "cutout": 6,
    "mixup": 0.2,
    "cutmix": 1.0,
}
LABELS = np.arange(8, dtype=np.int32) % 5


def augment_with(crops_on_host=False, fill=FILL, image_size=None, jit=True, **chosen):
    config = settings.default().augment
    config.update(chosen)
    augment = pipeline.from_config(config, 5, fill, crops_on_host, image_size)
    return jax.jit(augment) if jit else augment


@pytest.fixture
def images(noise):
    return np.concatenate([noise, noise[:3, ::-1]])


def test_disabled_pipeline_changes_nothing(images):
    same, labels = augment_with()(jax.random.key(0), images, LABELS)
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(labels, LABELS)
    assert (same.dtype, labels.dtype) == (jnp.uint8, jnp.int32)


@pytest.mark.parametrize("name", ON)
def test_augmentation_is_enabled_by_its_setting_and_decided_by_the_key(images, name):
    augment = augment_with(**{name: ON[name]})
    first, labels = augment(jax.random.key(0), images, LABELS)
    again, _ = augment(jax.random.key(0), images, LABELS)
    other, _ = augment(jax.random.key(1), images, LABELS)
    assert (first != images).any()
    assert (first != other).any()
    np.testing.assert_array_equal(first, again)
    assert first.shape == images.shape
    assert first.dtype == (jnp.float32 if name == "mixup" else jnp.uint8)
    if name in ("mixup", "cutmix"):
        assert (labels.shape, labels.dtype) == ((8, 5), jnp.float32)
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    else:
        assert labels.dtype == jnp.int32
        np.testing.assert_array_equal(labels, LABELS)


@pytest.fixture
def calls(monkeypatch):
    """Replace the augmentations by functions that record their random keys.

    Returns:
      The keys by the name of the setting, in the order of the calls.
    """
    keys = {}

    def spy(owner, function, name):
        def record(key, images, *args, **_):
            keys[name] = tuple(jax.random.key_data(key).tolist())
            return (images, args[0]) if name == "mixup" else images

        monkeypatch.setattr(owner, function, record)

    spy(geometry, "random_resized_crop", "random_resized_crop")
    spy(geometry, "random_crop", "crop_padding")
    spy(geometry, "random_horizontal_flip", "horizontal_flip")
    spy(geometry, "random_rotation", "rotation")
    spy(pipeline, "randaugment", "randaugment")
    spy(pipeline, "trivial_augment", "trivial_augment")
    spy(color, "color_jitter", "color_jitter")
    spy(color, "random_grayscale", "grayscale")
    spy(color, "random_blur", "gaussian_blur")
    spy(color, "random_solarize", "solarize")
    spy(erasing, "random_erasing", "random_erasing")
    spy(erasing, "cutout", "cutout")
    spy(mixing, "mixup_or_cutmix", "mixup")
    return keys


def record_calls(calls, images, crops_on_host=False, **chosen):
    calls.clear()
    augment_with(crops_on_host, jit=False, **chosen)(jax.random.key(7), images, LABELS)
    return dict(calls)


def test_random_key_of_an_augmentation_does_not_depend_on_other_augmentations(calls, images):
    together = record_calls(calls, images, **ON)
    assert len(set(together.values())) == len(together) == 13
    for name in together:
        assert record_calls(calls, images, **{name: ON[name]}) == {name: together[name]}


def test_augmentations_run_in_the_order_of_the_settings(calls, images):
    """Geometry, then color, then erasing, then mixing."""
    expected = [name for name in ON if name != "cutmix"]
    assert list(record_calls(calls, images, **ON)) == expected


def test_crops_done_on_the_host_are_not_repeated(calls, images):
    assert set(record_calls(calls, images, crops_on_host=True, **ON)) == set(ON) - {"random_resized_crop", "cutmix"}


def test_crops_have_the_image_size_of_the_model(images):
    key, scale = jax.random.key(3), (0.3, 1.0)
    augmented, _ = augment_with(image_size=40, random_resized_crop=scale)(key, images, LABELS)
    assert (augmented.shape, augmented.dtype) == ((8, 40, 40, 3), jnp.uint8)
    key = jax.random.fold_in(key, pipeline.Stream.RANDOM_RESIZED_CROP)
    np.testing.assert_array_equal(
        augmented,
        jax.jit(geometry.random_resized_crop, static_argnums=(2, 3, 4))(key, images, scale, (3 / 4, 4 / 3), 40),
    )


def test_image_size_is_kept_without_random_resized_crop(images):
    augmented, _ = augment_with(image_size=40, crop_padding=2, rotation=15.0)(jax.random.key(0), images, LABELS)
    assert augmented.shape == images.shape


def test_erased_pixels_get_the_mean_and_the_crop_border_is_black(images):
    erased, _ = augment_with(fill=(120.4, 0.0, 99.6), cutout=8)(jax.random.key(0), images, LABELS)
    changed = (np.asarray(erased) != images).any(-1)
    assert changed.any((1, 2)).all()
    assert (np.asarray(erased)[changed] == (120, 0, 100)).all()
    moved, _ = augment_with(crop_padding=6)(jax.random.key(0), np.full_like(images, 50), LABELS)
    assert set(np.unique(moved)) == {0, 50}


def test_augmentations_need_no_communication_between_devices(mesh):
    """Compile for a batch that is split over eight devices, with two images each."""
    split, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    noise = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3)).astype(np.uint8)
    key = jax.device_put(jax.random.key(0), everywhere)
    images, labels = jax.device_put((noise, np.arange(16, dtype=np.int32) % 5), split)
    fast_to_compile = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    settings = {name: value for name, value in ON.items() if name != "trivial_augment"}  # It is like RandAugment.
    compiled = augment_with(**settings).lower(key, images, labels).compile(fast_to_compile)
    program = compiled.as_text()
    assert "fusion(" in program
    for communication in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f"{communication}(" not in program
    augmented, mixed_labels = compiled(key, images, labels)
    assert augmented.shape == noise.shape
    assert augmented.dtype == mixed_labels.dtype == jnp.float32
    assert 0 <= augmented.min() < augmented.max() <= 255
    np.testing.assert_allclose(mixed_labels.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("chosen", [{}, ON, {"randaugment": (1, 10)}, {"random_resized_crop": (1, 1), "cutout": 0}])
def test_check_accepts_valid_settings(chosen):
    config = settings.default().augment
    config.update(chosen)
    pipeline.check(config, 64)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("random_resized_crop", (0.08,), "the smallest and the largest fraction of the area"),
        ("random_resized_crop", (0.0, 1.0), "the smallest and the largest fraction of the area"),
        ("random_resized_crop", (0.5, 0.4), "the smallest and the largest fraction of the area"),
        ("random_resized_crop", (0.5, 1.1), "the smallest and the largest fraction of the area"),
        ("random_resized_crop", ("a", "b"), "the smallest and the largest fraction of the area"),
        ("rotation", -1.0, "degrees from 0 to 180"),
        ("rotation", 181.0, "degrees from 0 to 180"),
        ("rotation", float("nan"), "degrees from 0 to 180"),
        ("color_jitter", (0.4, 0.4, 0.4), "four numbers of at least 0"),
        ("color_jitter", (0.4, -0.4, 0.4, 0.1), "four numbers of at least 0"),
        ("color_jitter", (0.4, 0.4, 0.4, 0.6), "the last (hue) at most 0.5"),
        ("randaugment", (2,), "the number of operations, a magnitude from 0 to 10"),
        ("randaugment", (0, 9), "the number of operations"),
        ("randaugment", (1.5, 9), "the number of operations"),
        ("randaugment", (2, 11), "a magnitude from 0 to 10"),
        ("randaugment", (2, 9, -0.5), "optionally its std"),
        ("randaugment", (2, 9, 0.5, 1), "optionally its std"),
        ("color_jitter_share", 1.5, "a probability from 0 to 1"),
        ("grayscale", -0.1, "a probability from 0 to 1"),
        ("gaussian_blur", 1.1, "a probability from 0 to 1"),
        ("solarize", 2.0, "a probability from 0 to 1"),
        ("random_erasing", 1.5, "a probability from 0 to 1"),
        ("random_erasing", -0.1, "a probability from 0 to 1"),
        ("cutout", -1, "0 (off) or positive"),
        ("mixup", -0.2, "0 (off) or positive"),
        ("cutmix", float("inf"), "0 (off) or positive"),
    ],
)
def test_check_rejects_invalid_settings(name, value, message):
    config = settings.default().augment
    config[name] = value
    with pytest.raises(UserError) as error:
        pipeline.check(config, 64)
    assert str(error.value).startswith(f"augment.{name} ({value}) must be ")
    assert message in str(error.value)


def test_check_rejects_alternating_flips_of_repeated_images():
    config = settings.default().augment
    config.alternating_flip, config.repeats = True, 2
    with pytest.raises(UserError, match="would not alternate"):
        pipeline.check(config, 64)


def test_check_rejects_two_kinds_of_flips():
    config = settings.default().augment
    config.horizontal_flip = config.alternating_flip = True
    with pytest.raises(UserError, match=r"would undo augment\.alternating_flip"):
        pipeline.check(config, 64)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_check_rejects_an_odd_batch_size_for_mixing(name):
    config = settings.default().augment
    pipeline.check(config, 63)
    config[name] = 1.0
    pipeline.check(config, 64)
    with pytest.raises(UserError, match=r"batch_size \(63\) is odd\. Choose an even batch_size\."):
        pipeline.check(config, 63)
