"""Which pictures of a folder are most like another: those whose features point in nearly the same direction."""

import numpy as np

from resnet_jax.inference.features import Features
from resnet_jax.inference.predict import Rank, Ranked
from resnet_jax.trained_model import Outputs

BLOCK = 4096  # pictures of the folder that are compared at once


def nearest(among: Features, top: int) -> Rank:
    """Ranks pictures by the cosine of the angle between their features and those of another: in [-1, 1], 1 for equals.

    The `top` nearest, or all where there are fewer; of equally near ones the first.
    """
    units = _units(among.array())

    def rank(of: Outputs) -> list[Ranked]:
        places, cosines = _search(_units(of.features), units, top)
        return [
            [(among.pictures[place], float(cosine)) for place, cosine in zip(*row, strict=True)]
            for row in zip(places, cosines, strict=True)
        ]

    return rank


def _search(wanted: np.ndarray, units: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Of `units` [n, width] the places of the nearest to each of `wanted` [m, width], and their cosines: [m, top]."""
    best, places = np.empty((len(wanted), 0), np.float32), np.empty((len(wanted), 0), np.int64)
    for start in range(0, len(units), BLOCK):
        cosines = np.clip(wanted @ units[start : start + BLOCK].T, -1, 1)
        block = np.broadcast_to(np.arange(start, start + cosines.shape[1]), cosines.shape)
        best, places = np.concatenate([best, cosines], axis=-1), np.concatenate([places, block], axis=-1)
        order = np.argsort(-best, axis=-1, kind="stable")[:, :top]
        best, places = (np.take_along_axis(array, order, axis=-1) for array in (best, places))
    return places, best


def _units(features: np.ndarray) -> np.ndarray:
    """Features of length 1; where nothing was found, they stay 0."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(lengths == 0, 1, lengths)
