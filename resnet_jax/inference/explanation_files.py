"""The files of explanations: for each image a figure, the maps and a line of JSON."""

import errno
import json
import os
import pathlib
import re
import statistics
from collections import defaultdict

from etils import epath

from resnet_jax import files, image_grid
from resnet_jax.errors import UserError
from resnet_jax.inference import overlays
from resnet_jax.inference.explain import Explanation, Problem

INDEX = "explanations.jsonl"
MAX_NAME = 60  # characters of an image's name in the names of its files


class ExplanationFiles:
    """Writes explanations to a directory: NUMBER_NAME.png, NUMBER_NAME.npz, and `explanations.jsonl`.

    The directory is made when the first explanation is written.

    Args:
      directory: a directory that is empty or does not exist yet.

    Attributes:
      explained: how many images have been explained.
      failed: how many images could not be read.

    Raises:
      UserError: if the directory is not empty or cannot be written to.
    """

    def __init__(self, directory: str):
        self.explained = self.failed = 0
        self._directory = _check_directory(directory)
        self._gaps: defaultdict[str, list[float]] = defaultdict(list)

    def write(self, explanation: Explanation | Problem) -> None:
        """Write the files of one image, each of them atomically.

        Raises:
          UserError: if a file cannot be written.
        """
        record: dict[str, object] = {"image": explanation.name, "error": None}
        if isinstance(explanation, Problem):
            record["error"] = explanation.reason
            self.failed += 1
        else:
            self.explained += 1
            for name, gap in explanation.completeness_gaps.items():
                self._gaps[name].append(gap)
            stem = f"{self.explained + self.failed:05d}_{_file_name(explanation.name)}"
            self._write(f"{stem}.png", image_grid.as_png(overlays.figure(explanation)))
            self._write(f"{stem}.npz", files.as_npz(explanation.maps, compress=True))
            record |= {
                "label": explanation.label,
                "prediction": explanation.prediction,
                "probability": explanation.probability,
                "target": explanation.target,
                "target_probability": explanation.target_probability,
                "completeness_gaps": explanation.completeness_gaps,
                "figure": f"{stem}.png",
                "maps": f"{stem}.npz",
            }
        self._append(json.dumps(record))

    def median_gaps(self) -> dict[str, float]:
        """Return the median of the completeness gaps of all images, by method."""
        return {name: statistics.median(gaps) for name, gaps in self._gaps.items()}

    def _write(self, name: str, content: bytes) -> None:
        try:
            files.write(epath.Path(self._directory / name), content)
        except OSError as error:
            raise self._error(name, error) from error

    def _append(self, line: str) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with open(self._directory / INDEX, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise self._error(INDEX, error) from error

    def _error(self, name: str, error: OSError) -> UserError:
        remedy = "Free some space there, or choose" if error.errno == errno.ENOSPC else "Choose"
        return UserError(f"cannot write {self._directory / name} ({error.strerror}). {remedy} another directory.")


def _check_directory(path: str) -> pathlib.Path:
    """Return the directory that the user gave; raises `UserError` if it is not empty or cannot be written to."""
    if "://" in path:
        raise UserError(f"explain cannot write to a bucket ({path}). Choose a local directory.")
    directory = pathlib.Path(os.path.expanduser(path)).absolute()
    existing = next(candidate for candidate in (directory, *directory.parents) if os.path.lexists(candidate))
    if not existing.is_dir():
        raise UserError(f"{existing} is not a directory. Choose another directory.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing} is not writable. Choose another directory.")
    if existing == directory and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty. Choose another directory, or remove its files.")
    return directory


def _file_name(name: str) -> str:
    """Return the name of an image without its directory and extension, as part of the name of a file.

    Example:
      >>> _file_name("/photos/my cat.jpg"), _file_name("test[17]")
      ('my_cat', 'test_17_')
    """
    stem = os.path.splitext(os.path.basename(name))[0]
    return re.sub(r"[^\w.-]", "_", stem, flags=re.ASCII)[:MAX_NAME]
