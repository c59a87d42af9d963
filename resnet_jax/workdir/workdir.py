"""The run directory: everything a run leaves on disk.

config.json       the resolved settings
classes.json      the class names
began.json        the time at which the run was first started
checkpoints/      one directory per saved step: the newest few and the best
damaged/          checkpoints that could not be read
figures.json      the validation metrics of the checkpoints
metrics.jsonl     the training log, written by the training loop, with TensorBoard's event files beside it
result.json       the final result of a finished run
calibration.json  the temperature of a calibrated run
thresholds.json   the probabilities from which classes are predicted, for any number of labels per image
nan/              the step with a non-finite loss, if there was one, written by the training loop
restarts/         reports of the processes of a run with --restarts; see `training.restarts`
"""

import contextlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

from etils import epath
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax import files
from resnet_jax.errors import UserError, first_line
from resnet_jax.runtime import cluster, parallel
from resnet_jax.workdir.checkpoints import Checkpoints

T = TypeVar("T")

BUCKET_PACKAGES = ("tensorflow", "gcsfs")  # either lets `epath` read and write gs://


class LocalPath(type(epath.Path())):  # type: ignore[misc]  # epath.Path() is a PosixGPath or a WindowsGPath.
    """A local path whose `glob` treats only its argument as a pattern.

    `epath.Path.glob`, with which Orbax finds the files that it has written, treats the whole path as a pattern. In a
    directory such as sweep[lr=0.1], it would find nothing, and leave checkpoints that cannot be read.
    """

    def glob(self, pattern: str) -> Iterator["LocalPath"]:
        return map(type(self), pathlib.Path(self).glob(pattern))


class WorkDir:
    """A run directory, which need not exist yet.

    Args:
      path: a local path, or the address of a bucket, such as gs://bucket/run.

    Attributes:
      path: the absolute path of the directory, or the address in a bucket.

    Raises:
      UserError: if the path is empty, or one of the libraries that write the run cannot use it; for a bucket, if no
        package that can reach it is installed.
    """

    def __init__(self, path: str):
        # Orbax requires absolute paths. Addresses of buckets are absolute.
        self.path = _bucket_path(path) if "://" in path else _local_path(path)

    def exists(self) -> bool:
        """Return True if the directory holds a run."""
        return (self.path / "config.json").exists()

    def make(self) -> None:
        """Create the directory if necessary, and check that it is writable.

        Call this before data is downloaded, so that the user learns early that the directory is not writable.

        Raises:
          UserError: if nothing can be written there.
        """
        if not parallel.is_main_process():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("", encoding="utf-8")
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"cannot write to the workdir {self.path} ({error.strerror or error}). Choose another --workdir."
            ) from error

    def write_config_and_classes(self, config: ConfigDict, classes: Sequence[str]) -> None:
        """Write `classes.json` and then `config.json`, which makes the directory count as a run."""
        self.write("classes.json", json.dumps(list(classes), indent=2) + "\n")
        self.write("config.json", settings.to_json(config))

    def began(self, now: float) -> float:
        """Return the Unix time at which the run was first started, and store it: `now` if this is the first start."""
        if (self.path / "began.json").exists():
            return float(self._read_json("began.json", dict)["unix_time"])
        self.write("began.json", json.dumps({"unix_time": now}) + "\n")
        return now

    def write_result(self, result: dict) -> None:
        self.write("result.json", json.dumps(result, indent=2) + "\n")

    def forget_result(self) -> None:
        """Remove the result of a run that is being resumed."""
        self.remove("result.json")

    def calibration(self) -> dict | None:
        """Return the content of `calibration.json`, or None if the run is not calibrated."""
        if not (self.path / "calibration.json").exists():
            return None
        return self._read_json("calibration.json", dict)

    def write_calibration(self, calibration: dict) -> None:
        self.write("calibration.json", json.dumps(calibration, indent=2) + "\n")

    def thresholds(self) -> dict | None:
        """Return the content of `thresholds.json`, or None if there is none."""
        if not (self.path / "thresholds.json").exists():
            return None
        return self._read_json("thresholds.json", dict)

    def write_thresholds(self, thresholds: dict) -> None:
        self.write("thresholds.json", json.dumps(thresholds, indent=2) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file atomically, in the main process only.

        Args:
          name: relative to the run directory, such as "config.json" or "nan/nan.json".
          content: the whole content of the file.
        """
        if parallel.is_main_process():
            files.write(self.path / name, content)

    def remove(self, name: str) -> None:
        """Remove a file if it exists, in the main process only."""
        if parallel.is_main_process():
            (self.path / name).unlink(missing_ok=True)

    def config(self) -> ConfigDict:
        """Return the resolved settings of the run."""
        return settings.from_json(self._read("config.json"))

    def classes(self) -> tuple[str, ...]:
        """Return the class names by label."""
        return tuple(map(str, self._read_json("classes.json", list)))

    def result(self) -> dict | None:
        """Return the final result, or None if the run is not finished."""
        if not (self.path / "result.json").exists():
            return None
        return self._read_json("result.json", dict)

    def _read_json(self, name: str, kind: type[T]) -> T:
        try:
            value = json.loads(self._read(name))
            if not isinstance(value, kind):
                raise ValueError(f"it does not hold a {kind.__name__}")
        except (ValueError, RecursionError) as error:
            raise self._damaged(name, error) from None
        return value

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except OSError:
            raise UserError(f"{self.path} is not a run directory (no {name}). Check --workdir.") from None
        except UnicodeDecodeError as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: Exception) -> UserError:
        return UserError(f"{self.path / name} is damaged ({first_line(error)}). Restore the file.")

    @contextlib.contextmanager
    def open_checkpoints(self, keep: int, best_metric: str, read_only: bool = False) -> Iterator[Checkpoints]:
        """Open the checkpoints and, on exit, wait for pending saves and close them.

        If another process of the run is lost, they are not closed, because closing would wait for that process forever.

        Args:
          keep, best_metric, read_only: see `Checkpoints`.

        Raises:
          UserError: if the checkpoints cannot be read, or if a pending save fails.
        """
        checkpoints = Checkpoints(self.path, keep, best_metric, read_only)
        try:
            yield checkpoints
        except BaseException as error:
            if not cluster.is_process_loss(error):
                checkpoints.close()
            raise
        checkpoints.close()


def _local_path(path: str) -> LocalPath:
    """Return the absolute path of a run directory; raises `UserError` if it cannot be used."""
    if not path:
        raise UserError("the path of the workdir is empty. Name a directory.")
    absolute = os.path.abspath(os.path.expanduser(path)).replace("//", "/")  # abspath keeps // at the start.
    files.check_characters(absolute, "workdir", misread="\\")  # TensorStore takes it for a slash.
    local_path = LocalPath(absolute)
    if str(local_path) != absolute:
        raise UserError(f"the workdir {absolute} would be taken for {local_path}. Choose another --workdir.")
    return local_path


def _bucket_path(address: str) -> epath.Path:
    """Return the path of a run directory in a bucket; raises `UserError` if it cannot be used."""
    files.check_characters(address, "workdir", misread="*?[")  # `LocalPath` says why.
    if address.startswith("gs://") and not any(map(importlib.util.find_spec, BUCKET_PACKAGES)):
        raise UserError(
            f"{address} cannot be reached because neither {' nor '.join(BUCKET_PACKAGES)} is installed. "
            'In a checkout of this project, run: pip install ".[gcs]"'
        )
    try:
        return epath.Path(address)
    except KeyError as scheme:
        raise UserError(
            f"the workdir {address} is neither a local path nor in a bucket ({scheme}). Choose another --workdir."
        ) from None
