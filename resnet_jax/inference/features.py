"""The features of pictures: what a network has found in each, as numbers for other programs, or to compare."""

import io
from collections.abc import Iterable, Sequence

import numpy as np

from resnet_jax import files
from resnet_jax.trained_model import Outputs

TARGET = ("features", ".npz")  # what is written, in words and as a file


class Features:
    """Features that are gathered batch by batch; of pictures that cannot be read there are none.

    Attributes:
      pictures: n paths.
      problems: why others could not be read, by their paths.
    """

    def __init__(self):
        self.pictures: list[str] = []
        self.problems: dict[str, str] = {}
        self._parts: list[np.ndarray] = []

    @classmethod
    def of(cls, batches: Iterable[tuple[Sequence[str], Outputs]]) -> "Features":
        """Of all that `predict.outputs` gives."""
        gathered = cls()
        for pictures, outputs in batches:
            gathered.add(pictures, outputs)
        return gathered

    def add(self, pictures: Sequence[str], outputs: Outputs) -> None:
        """Takes what a network makes of some pictures."""
        readable = [place for place in range(len(pictures)) if place not in outputs.problems]
        self.pictures += [pictures[place] for place in readable]
        self.problems |= {pictures[place]: reason for place, reason in outputs.problems.items()}
        self._parts.append(outputs.features[readable])

    def array(self) -> np.ndarray:
        """float32 [n, width]."""
        return np.concatenate(self._parts)

    def write(self, path: str, classes: Sequence[str]) -> None:
        """Writes a .npz file, wholly or not at all: `features` float32 [n, width], `names` [n], and `classes`.

        Raises:
          UserError: if it cannot be written.
        """
        arrays = {"features": self.array(), "names": np.array(self.pictures, str), "classes": np.array(classes, str)}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        files.write_target(path, *TARGET, content.getvalue())


def check(path: str) -> None:
    """Raises `UserError` where `Features.write` could not write."""
    files.check_target(path, *TARGET)
