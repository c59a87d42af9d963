"""The augmentation pipeline that the `augment` settings describe, and the check of these settings.

Three settings act elsewhere: `alternating_flip` (`Experiment.batch`), `repeats` (`data.sampling`), and
`progressive_resizing` (`Experiment.resizing_to`).
"""

import enum
import math
from collections.abc import Callable, Sequence

import jax
from ml_collections import ConfigDict

from resnet_jax.data.augment import color, erasing, geometry, mixing
from resnet_jax.data.augment.randaugment import randaugment
from resnet_jax.data.augment.trivial_augment import trivial_augment
from resnet_jax.errors import UserError, unknown_name

Augment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]  # see `from_config`


class Stream(enum.IntEnum):
    """Random stream of each augmentation, so that enabling one does not change what the others draw."""

    RANDOM_RESIZED_CROP = 0
    CROP_PADDING = 1
    HORIZONTAL_FLIP = 2
    ROTATION = 3
    RANDAUGMENT = 4
    COLOR_JITTER = 5
    RANDOM_ERASING = 6
    CUTOUT = 7
    MIXING = 8
    GRAYSCALE = 9
    BLUR = 10
    SOLARIZE = 11
    TRIVIAL_AUGMENT = 12


def from_config(
    augment: ConfigDict,
    num_classes: int,
    fill: Sequence[float],
    crops_on_host: bool = False,
    image_size: int | None = None,
) -> Augment:
    """Return a pure function that augments a batch.

    Args:
      augment: the `augment` settings.
      num_classes: number of classes.
      fill: the dataset's mean pixel, one value in [0, 255] per channel. Pixels that are erased or that come from
        outside the image get this value, which is zero after normalization. (The border of `crop_padding` is black.)
      crops_on_host: whether the feed has already done `random_resized_crop`.
      image_size: height and width in pixels to which `random_resized_crop` resizes its crops; by default the size of
        the images. Set it if the images will be resized to this size after the augmentation anyway. The augmentations
        that follow the crop then work on images of this size.

    Returns:
      A function of a PRNG key, images uint8 [batch, height, width, channels] and labels, int32 [batch] or float32
      [batch, num_classes], which returns augmented images and their labels. With mixup, images become float32, still in
      [0, 255]. With mixup or cutmix, int32 labels become float32 [batch, num_classes], each row a distribution over the
      classes, and an odd batch raises `UserError`.

    Example:
      >>> from resnet_jax import config
      >>> settings = config.default().augment
      >>> settings.horizontal_flip = True
      >>> augment = from_config(settings, num_classes=10, fill=(0, 0, 0))
      >>> images = jax.numpy.zeros((4, 8, 8, 3), "uint8")
      >>> augmented, labels = augment(jax.random.key(0), images, jax.numpy.arange(4))
      >>> augmented.shape
      (4, 8, 8, 3)
    """
    fill = tuple(fill)

    def apply(key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = {stream: jax.random.fold_in(key, stream) for stream in Stream}
        if augment.random_resized_crop and not crops_on_host:
            crop_key, scale = keys[Stream.RANDOM_RESIZED_CROP], augment.random_resized_crop
            images = geometry.random_resized_crop(crop_key, images, scale, size=image_size)
        if augment.crop_padding:
            padding, border = augment.crop_padding, augment.crop_border
            images = geometry.random_crop(keys[Stream.CROP_PADDING], images, padding, border)
        if augment.horizontal_flip:
            images = geometry.random_horizontal_flip(keys[Stream.HORIZONTAL_FLIP], images)
        if augment.rotation:
            images = geometry.random_rotation(keys[Stream.ROTATION], images, augment.rotation, fill)
        if augment.randaugment:
            randaugment_key = keys[Stream.RANDAUGMENT]
            # The setting has at most three values, so that none of them is passed as `fill`. mypy does not know this.
            images = randaugment(randaugment_key, images, *augment.randaugment, fill=fill)  # type: ignore[misc]
        if augment.trivial_augment:
            images = trivial_augment(keys[Stream.TRIVIAL_AUGMENT], images, fill)
        if augment.color_jitter:
            strengths = (*augment.color_jitter, augment.color_jitter_share)
            images = color.color_jitter(keys[Stream.COLOR_JITTER], images, *strengths)
        if augment.grayscale:
            images = color.random_grayscale(keys[Stream.GRAYSCALE], images, augment.grayscale)
        if augment.gaussian_blur:
            images = color.random_blur(keys[Stream.BLUR], images, augment.gaussian_blur)
        if augment.solarize:
            images = color.random_solarize(keys[Stream.SOLARIZE], images, augment.solarize)
        if augment.random_erasing:
            images = erasing.random_erasing(keys[Stream.RANDOM_ERASING], images, augment.random_erasing, fill)
        if augment.cutout:
            images = erasing.cutout(keys[Stream.CUTOUT], images, augment.cutout, fill)
        if augment.mixup or augment.cutmix:
            labels = jax.nn.one_hot(labels, num_classes) if labels.ndim == 1 else labels
            key = keys[Stream.MIXING]
            images, labels = mixing.mixup_or_cutmix(key, images, labels, augment.mixup, augment.cutmix)
        return images, labels

    return apply


def check(augment: ConfigDict, batch_size: int) -> None:
    """Raise `UserError` for invalid values of the `augment` settings, naming the setting."""
    if augment.mixup or augment.cutmix:
        mixing.check_batch_size(batch_size)
    if augment.crop_border not in geometry.BORDERS:
        raise unknown_name("augment.crop_border", augment.crop_border, geometry.BORDERS)
    if augment.horizontal_flip and augment.alternating_flip:
        raise UserError(
            "augment.horizontal_flip would undo augment.alternating_flip. Set augment.horizontal_flip=False."
        )
    if augment.alternating_flip and augment.repeats > 1:
        raise UserError(
            "augment.repeats shows an image in few epochs, so augment.alternating_flip would not alternate. Set "
            "augment.horizontal_flip=True instead."
        )
    scale, jitter, operations = augment.random_resized_crop, augment.color_jitter, augment.randaugment
    if scale and not (_are_numbers(scale, (2,)) and 0 < scale[0] <= scale[1] <= 1):
        valid = "the smallest and the largest fraction of the area, such as '(0.08, 1.0)'"
        raise _invalid(augment, "random_resized_crop", valid)
    if not 0 <= augment.rotation <= 180:
        raise _invalid(augment, "rotation", "degrees from 0 to 180")
    if jitter and not (_are_numbers(jitter, (4,)) and min(jitter) >= 0 and jitter[3] <= 0.5):
        valid = "four numbers of at least 0, the last (hue) at most 0.5, such as '(0.4, 0.4, 0.4, 0.1)'"
        raise _invalid(augment, "color_jitter", valid)
    if operations and not (_are_numbers(operations, (2, 3)) and _is_randaugment(*operations)):
        valid = "the number of operations, a magnitude from 0 to 10 and optionally its std, such as '(2, 9)'"
        raise _invalid(augment, "randaugment", valid)
    for name in ("random_erasing", "color_jitter_share", "grayscale", "gaussian_blur", "solarize"):
        if not 0 <= augment[name] <= 1:
            raise _invalid(augment, name, "a probability from 0 to 1")
    for name in ("cutout", "mixup", "cutmix"):
        if not 0 <= augment[name] < math.inf:
            raise _invalid(augment, name, "0 (off) or positive")


def _are_numbers(values: tuple, lengths: tuple[int, ...]) -> bool:
    return len(values) in lengths and all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _is_randaugment(num_ops: float, magnitude: float, magnitude_std: float = 0.0) -> bool:
    return isinstance(num_ops, int) and num_ops >= 1 and 0 <= magnitude <= 10 and magnitude_std >= 0


def _invalid(augment: ConfigDict, name: str, valid: str) -> UserError:
    return UserError(f"augment.{name} ({augment[name]}) must be {valid}.")
