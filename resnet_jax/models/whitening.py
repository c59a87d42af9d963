"""The kernel of the whitening stem, computed from images."""

import numpy as np

EPSILON = 5e-4  # added to the variances; the value of airbench94 (Jordan 2024)


def patch_whitening_kernel(images: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """Return a kernel that whitens the 2x2 patches of images: uncorrelated outputs, followed by their negatives.

    Coates & Ng 2012, "Learning Feature Representations with K-means", section 2.2, with PCA whitening: each output is
    the projection of a patch on an eigenvector of the covariance of the patches, divided by the standard deviation. As
    in Page 2019 ("How to Train Your ResNet 8") and Jordan 2024, the negative of each output follows, so
    that an activation such as ReLU loses nothing.

    Args:
      images: normalized images, float [n, height, width, channels], at least 2x2.
      epsilon: added to the variances, so that directions without variance stay finite.

    Returns:
      float32 [2, 2, channels, 8 * channels]. With `epsilon` 0, the first half of the outputs has the identity as its
      covariance.

    Example:
      >>> images = np.random.default_rng(0).normal(size=(10, 8, 8, 3))
      >>> patch_whitening_kernel(images).shape
      (2, 2, 3, 24)
    """
    channels = images.shape[-1]
    patches = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (2, 2), axis=(1, 2))
    patches = np.moveaxis(patches, 3, -1).reshape(-1, 4 * channels)  # each patch in the order (row, column, channel)
    variances, directions = np.linalg.eigh(np.cov(patches, rowvar=False))
    directions /= np.sqrt(np.maximum(variances, 0) + epsilon)
    return np.concatenate([directions, -directions], axis=1).reshape(2, 2, channels, -1).astype(np.float32)
