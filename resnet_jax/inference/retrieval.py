"""Image retrieval: find the images whose features have the highest cosine similarity to the features of an image."""

import numpy as np

from resnet_jax.inference.features import Features
from resnet_jax.inference.predict import Rank, Ranking
from resnet_jax.trained_model import Outputs

BLOCK_SIZE = 4096  # candidates that are compared at once


def rank_by_similarity(candidates: Features, top: int) -> Rank:
    """Return a function that ranks candidate images by their similarity to an image.

    The similarity is the cosine of the angle between the features of both images: in [-1, 1], and 1 for equal images.
    The ranking holds the `top` most similar candidates, or all if there are fewer. Equally similar candidates keep
    their order.
    """
    candidate_units = _normalize(candidates.array())

    def rank(outputs: Outputs) -> list[Ranking]:
        indices, cosines = _search(_normalize(outputs.features), candidate_units, top)
        return [
            [(candidates.paths[index], float(cosine)) for index, cosine in zip(*row, strict=True)]
            for row in zip(indices, cosines, strict=True)
        ]

    return rank


def _search(queries: np.ndarray, candidates: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest candidates to each query.

    Args:
      queries: unit vectors [m, width].
      candidates: unit vectors [n, width].
      top: how many candidates to return per query at most.

    Returns:
      Indices and cosines of the nearest candidates: [m, top].
    """
    best_cosines = np.empty((len(queries), 0), np.float32)
    best_indices = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(candidates), BLOCK_SIZE):
        cosines = np.clip(queries @ candidates[start : start + BLOCK_SIZE].T, -1, 1)
        indices = np.broadcast_to(np.arange(start, start + cosines.shape[1]), cosines.shape)
        best_cosines = np.concatenate([best_cosines, cosines], axis=-1)
        best_indices = np.concatenate([best_indices, indices], axis=-1)
        order = np.argsort(-best_cosines, axis=-1, kind="stable")[:, :top]
        best_cosines = np.take_along_axis(best_cosines, order, axis=-1)
        best_indices = np.take_along_axis(best_indices, order, axis=-1)
    return best_indices, best_cosines


def _normalize(features: np.ndarray) -> np.ndarray:
    """Scale features to length 1. Features that are all zero stay zero."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(lengths == 0, 1, lengths)
