"""From uint8 pixels to what the network sees: the same in training, evaluation and export."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Resizing to what the network wants, and normalisation, `(pixels / 255 - mean) / std`, on the device.

    Attributes:
      mean, std: one number a channel that the network sees, for pixels in [0, 1].
      image_size: pixels on a side to which whole pictures are resized, bilinear, without aliasing where they shrink;
        unset: they are as they should be.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None = None

    @classmethod
    def from_config(cls, dataset: ConfigDict) -> "Preprocess":
        """As the resolved settings of a run say: streamed pictures come in the size that the network is to see."""
        return cls(dataset.mean, dataset.std, dataset.image_size if dataset.feed == "resident" else None)

    def __call__(self, images: jax.Array) -> jax.Array:
        """uint8 or float32 [batch, height, width, channels] in [0, 255] to what the network sees.

        Returns:
          float32 of the same shape, but for `image_size` as height and width, and three channels of grey pictures where
          `mean` and `std` have three numbers.
        """
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        # Before normalisation, which broadcasts grey to three channels: resizing these would be three times the work.
        # The numbers are the same, as interpolation and normalisation commute.
        return (self._resized(images.astype(jnp.float32)) / 255 - mean) / std

    def check(self, channels: int) -> None:
        """Raises `UserError` unless pictures of so many channels can be normalised."""
        if channels != len(self.mean) and (channels, len(self.mean)) != (1, 3):  # Grey becomes three channels.
            raise UserError(
                f"mean and deviation are of {len(self.mean)} channels, and the pictures have {channels}: set "
                "dataset.mean and dataset.std, or take other weights if they are of these"
            )

    def mean_pixel(self, channels: int) -> tuple[float, ...]:
        """The pixel, in [0, 255], that becomes zero; of grey pictures that become three channels, zero on average."""
        if len(self.mean) == channels:
            return tuple(255 * mean for mean in self.mean)
        return (255 * sum(self.mean) / len(self.mean),)

    def _resized(self, images: jax.Array) -> jax.Array:
        if self.image_size is None:
            return images
        batch, _, _, channels = images.shape
        return jax.image.resize(images, (batch, self.image_size, self.image_size, channels), "bilinear")


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of uint8 [n, height, width, channels], for pixels in [0, 1]; exact."""
    mean, std = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        levels, total = np.arange(256) / 255, counts.sum()
        average = float((counts * levels).sum() / total)
        mean.append(average)
        # A channel of a single value is only shifted: dividing by its deviation of zero would make NaNs.
        std.append(float(np.sqrt((counts * (levels - average) ** 2).sum() / total)) or 1.0)
    return tuple(mean), tuple(std)
