"""All that the settings `augment` ask for, one after another, and the check of these settings."""

import enum
import math
from collections.abc import Callable, Sequence

import jax
from ml_collections import ConfigDict

from resnet_jax.data.augment import color, erasing, geometry, mixing
from resnet_jax.data.augment.randaugment import randaugment
from resnet_jax.errors import UserError

Augment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class Stream(enum.IntEnum):
    """Where each augmentation draws from, so that switching one on does not change what the others draw."""

    RANDOM_RESIZED_CROP = 0
    CROP_PADDING = 1
    HORIZONTAL_FLIP = 2
    ROTATION = 3
    RANDAUGMENT = 4
    COLOR_JITTER = 5
    RANDOM_ERASING = 6
    CUTOUT = 7
    MIXING = 8


def from_config(
    augment: ConfigDict,
    num_classes: int,
    fill: Sequence[float],
    crops_resized_on_host: bool = False,
    image_size: int | None = None,
) -> Augment:
    """A pure function to augmented images and their labels.

    Args:
      augment: the settings `augment`.
      num_classes: how many classes the labels are of.
      fill: the data set's mean pixel, a value in [0, 255] for each channel: what is erased or comes into a picture
        from outside is then zero after normalisation. (The border of `crop_padding` is black.)
      crops_resized_on_host: whether the feed has done `random_resized_crop` already.
      image_size: pixels on a side to which `random_resized_crop` resizes, where pictures will be resized to it anyway;
        unset: their own size. What follows works on pictures as they are then.

    Returns:
      A function of a PRNG key, images uint8 [batch, height, width, channels] and labels int32 [batch] to images and
      labels. With mixup, images come out as float32, still in [0, 255]. With mixup or cutmix, labels come out as
      float32 [batch, num_classes], each row a distribution over the classes, and an odd batch raises `UserError`.
    """
    fill = tuple(fill)

    def apply(key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = {stream: jax.random.fold_in(key, stream) for stream in Stream}
        if augment.random_resized_crop and not crops_resized_on_host:
            key_of_crop, scale = keys[Stream.RANDOM_RESIZED_CROP], augment.random_resized_crop
            images = geometry.random_resized_crop(key_of_crop, images, scale, size=image_size)
        if augment.crop_padding:
            images = geometry.random_crop(keys[Stream.CROP_PADDING], images, augment.crop_padding)
        if augment.horizontal_flip:
            images = geometry.random_horizontal_flip(keys[Stream.HORIZONTAL_FLIP], images)
        if augment.rotation:
            images = geometry.random_rotation(keys[Stream.ROTATION], images, augment.rotation, fill)
        if augment.randaugment:
            images = randaugment(keys[Stream.RANDAUGMENT], images, *augment.randaugment, fill=fill)
        if augment.color_jitter:
            images = color.color_jitter(keys[Stream.COLOR_JITTER], images, *augment.color_jitter)
        if augment.random_erasing:
            images = erasing.random_erasing(keys[Stream.RANDOM_ERASING], images, augment.random_erasing, fill)
        if augment.cutout:
            images = erasing.cutout(keys[Stream.CUTOUT], images, augment.cutout, fill)
        if augment.mixup or augment.cutmix:
            labels = jax.nn.one_hot(labels, num_classes)
            key = keys[Stream.MIXING]
            images, labels = mixing.mixup_or_cutmix(key, images, labels, augment.mixup, augment.cutmix)
        return images, labels

    return apply


def check(augment: ConfigDict, batch_size: int) -> None:
    """Raises `UserError` for values of the settings `augment` that cannot work, naming the setting."""
    if (augment.mixup or augment.cutmix) and batch_size % 2:
        raise UserError(f"augment.mixup and augment.cutmix mix two by two: batch_size must be even, not {batch_size}")
    scale, jitter, operations = augment.random_resized_crop, augment.color_jitter, augment.randaugment
    if scale and not (_are_numbers(scale, (2,)) and 0 < scale[0] <= scale[1] <= 1):
        wanted = "the least and the largest share of the area, such as '(0.08, 1.0)'"
        raise _refusal(augment, "random_resized_crop", wanted)
    if not 0 <= augment.rotation <= 180:
        raise _refusal(augment, "rotation", "degrees from 0 to 180")
    if jitter and not (_are_numbers(jitter, (4,)) and min(jitter) >= 0 and jitter[3] <= 0.5):
        wanted = "four numbers from 0, the last (hue) up to 0.5, such as '(0.4, 0.4, 0.4, 0.1)'"
        raise _refusal(augment, "color_jitter", wanted)
    if operations and not (_are_numbers(operations, (2, 3)) and _is_randaugment(*operations)):
        wanted = "a whole number of operations, a magnitude from 0 to 10 and perhaps its deviation, such as '(2, 9)'"
        raise _refusal(augment, "randaugment", wanted)
    if not 0 <= augment.random_erasing <= 1:
        raise _refusal(augment, "random_erasing", "a probability from 0 to 1")
    for name in ("cutout", "mixup", "cutmix"):
        if not 0 <= augment[name] < math.inf:
            raise _refusal(augment, name, "0 (off) or positive")


def _are_numbers(values: tuple, lengths: tuple[int, ...]) -> bool:
    return len(values) in lengths and all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _is_randaugment(num_ops: float, magnitude: float, magnitude_std: float = 0.0) -> bool:
    return isinstance(num_ops, int) and num_ops >= 1 and 0 <= magnitude <= 10 and magnitude_std >= 0


def _refusal(augment: ConfigDict, name: str, wanted: str) -> UserError:
    return UserError(f"augment.{name} must be {wanted}, not {augment[name]}")
