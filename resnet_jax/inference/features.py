"""Image features (the inputs of the model's head), for use in other programs or for comparing images."""

from collections.abc import Iterable, Sequence

import numpy as np

from resnet_jax import files
from resnet_jax.trained_model import Outputs

TARGET = "features", ".npz"  # what the file holds, and its extension


class Features:
    """Features of images, collected batch by batch. Images that cannot be read have no features.

    Attributes:
      paths: paths of the n images that can be read.
      problems: why the other images cannot be read, by path.
    """

    def __init__(self):
        self.paths: list[str] = []
        self.problems: dict[str, str] = {}
        self._batches: list[np.ndarray] = []

    @classmethod
    def collect(cls, batches: Iterable[tuple[Sequence[str], Outputs]]) -> "Features":
        """Collect the features from all batches of `predict.model_outputs`."""
        features = cls()
        for paths, outputs in batches:
            features.add(paths, outputs)
        return features

    def add(self, paths: Sequence[str], outputs: Outputs) -> None:
        """Add the features of a batch of images.

        Args:
          paths: paths of the images.
          outputs: outputs of the model for them.
        """
        readable = [index for index in range(len(paths)) if index not in outputs.problems]
        self.paths += [paths[index] for index in readable]
        self.problems |= {paths[index]: reason for index, reason in outputs.problems.items()}
        self._batches.append(outputs.features[readable])

    def array(self) -> np.ndarray:
        """Return the features as float32 [n, width]."""
        return np.concatenate(self._batches)

    def write(self, path: str, classes: Sequence[str]) -> None:
        """Write an .npz file, atomically: `features` float32 [n, width], `names` [n] (the paths), and `classes`.

        Raises:
          UserError: if the file cannot be written.
        """
        arrays = {"features": self.array(), "names": np.array(self.paths, str), "classes": np.array(classes, str)}
        files.write_target(path, *TARGET, files.as_npz(arrays))


def check_target(path: str) -> None:
    """Raise `UserError` if `Features.write` cannot write this file."""
    files.check_target(path, *TARGET)
