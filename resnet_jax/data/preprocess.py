"""From uint8 pixels to what the network sees: the same in training, evaluation and export."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Normalisation, `(pixels / 255 - mean) / std`, on the device.

    Attributes:
      mean, std: one number a channel, for pixels in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        """uint8 [batch, height, width, channels] to float32 of the same shape."""
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (images.astype(jnp.float32) / 255 - mean) / std


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
