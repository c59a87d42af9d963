"""Preprocessing from uint8 pixels to the input of the model, the same in training, evaluation and prediction."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.errors import UserError

PIXELS_AT_ONCE = 2**20  # pixels counted at once: NumPy takes eight bytes for each
LEVELS = np.arange(256)  # all values of a uint8 pixel

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std per channel


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Resize images to the model's input size and normalize them, `(pixels / 255 - mean) / std`, on the device.

    Attributes:
      mean, std: one number per input channel of the model, for pixels in [0, 1].
      image_size: height and width in pixels to which images are resized, bilinear, with anti-aliasing where they
        shrink; None: images keep their size.

    Example:
      >>> preprocess = Preprocess(mean=(0.5,), std=(0.25,))
      >>> preprocess(np.array([[[[0], [255]]]], np.uint8)).tolist()
      [[[[-2.0], [2.0]]]]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None = None

    @classmethod
    def from_config(cls, dataset: ConfigDict) -> "Preprocess":
        """Return the preprocessing of a run with these resolved settings, without resizing if images are streamed.

        Streamed images are resized on the host.
        """
        return cls(dataset.mean, dataset.std, dataset.image_size if dataset.feed == "resident" else None)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Preprocess images, uint8 or float32 [batch, height, width, channels] in [0, 255].

        Returns:
          float32 [batch, height, width, channels], with `image_size` as height and width if it is set. Grayscale images
          get three channels if `mean` and `std` have three numbers.
        """
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        # Normalizing may broadcast a gray channel to three, so images are resized first, with a third of the work. The
        # order does not change the result, because interpolation and normalization commute.
        return (self._resize(images.astype(jnp.float32)) / 255 - mean) / std

    def check(self, channels: int) -> None:
        """Raise `UserError` if images with this number of channels cannot be normalized."""
        if channels != len(self.mean) and (channels, len(self.mean)) != (1, 3):  # Gray becomes three channels.
            raise UserError(
                f"mean and std have {len(self.mean)} channels, but the images have {channels}. Set dataset.mean and "
                "dataset.std or, if mean and std came with the weights, use different weights."
            )

    def mean_pixel(self, channels: int) -> tuple[float, ...]:
        """Return the mean pixel, with `channels` values in [0, 255]; normalization turns it into zero.

        For grayscale images that become three channels, it is the average of the means of these channels.
        """
        if len(self.mean) == channels:
            return tuple(255 * mean for mean in self.mean)
        return (255 * sum(self.mean) / len(self.mean),)

    def _resize(self, images: jax.Array) -> jax.Array:
        if self.image_size is None:
            return images
        batch, _, _, channels = images.shape
        return jax.image.resize(images, (batch, self.image_size, self.image_size, channels), "bilinear")


def channel_statistics(images: np.ndarray) -> Statistics:
    """Return mean and std per channel of uint8 [n, height, width, channels], after division by 255.

    Example:
      >>> channel_statistics(np.array([[[[0], [255]]]], np.uint8))
      ((0.5,), (0.5,))
    """
    sums, squares = zip(*(pixel_sums(images[..., channel]) for channel in range(images.shape[-1])), strict=True)
    return mean_and_std(math.prod(images.shape[:-1]), sums, squares)


def pixel_sums(values: np.ndarray) -> tuple[int, int]:
    """Return the sum of uint8 values of any shape and the sum of their squares, exactly."""
    rows = max(1, PIXELS_AT_ONCE // math.prod(values.shape[1:]))
    counts = np.zeros(256, np.int64)
    for start in range(0, len(values), rows):
        counts += np.bincount(values[start : start + rows].reshape(-1), minlength=256)
    return int(counts @ LEVELS), int(counts @ LEVELS**2)


def mean_and_std(num_pixels: int, sums: Sequence[int], squares: Sequence[int]) -> Statistics:
    """Return mean and std per channel, after division by 255, from the sums of the pixels and of their squares.

    The sums are those of the pixels in [0, 255]. Sums of integers are exact, so the results are exact up to the last
    rounding.
    """
    mean = tuple(total / (255 * num_pixels) for total in sums)
    # The std of a constant channel is set to 1: dividing by zero would give NaNs.
    std = tuple(
        math.sqrt(num_pixels * square - total**2) / (255 * num_pixels) or 1.0
        for total, square in zip(sums, squares, strict=True)
    )
    return mean, std
