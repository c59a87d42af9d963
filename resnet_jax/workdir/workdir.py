"""The run directory: all of a run that outlives its process.

config.json     the resolved settings
classes.json    the names of the classes
checkpoints/    one directory a step: the newest few and the best; damaged/ has those that could not be read
figures.json    their validation figures
metrics.jsonl   and TensorBoard's event files: written by the training
result.json     the final result, once the run is done
nan/            the step that broke, if one did: written by the training
"""

import importlib.util
import json
import os
from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax import files
from resnet_jax.errors import UserError, first_line
from resnet_jax.runtime import cluster, parallel
from resnet_jax.workdir.checkpoints import Checkpoints

REACH_BUCKETS = ("tensorflow", "gcsfs")


class WorkDir:
    """A run directory, existing or to be made."""

    def __init__(self, path: str):
        # Orbax wants absolute paths; gs:// ones are.
        self.path = epath.Path(path if "://" in path else os.path.abspath(os.path.expanduser(path)))
        if path.startswith("gs://") and not any(map(importlib.util.find_spec, REACH_BUCKETS)):
            raise UserError(
                f"{path} cannot be reached without {' or '.join(REACH_BUCKETS)}: pip install tensorflow-cpu"
            )
        self.checkpoints: Checkpoints | None = None  # once they are opened

    def exists(self) -> bool:
        return (self.path / "config.json").exists()

    def make(self) -> None:
        """Makes the directory, if need be.

        Raises:
          UserError: if nothing can be written there; better known before data is downloaded than after.
        """
        if not parallel.is_main_process():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"cannot write to the workdir {self.path} ({error.strerror or error}): choose another --workdir"
            ) from error

    def describe(self, config: ConfigDict, classes: Sequence[str]) -> None:
        """Writes `config.json` and `classes.json`; with the former the directory counts as a run."""
        self.write("classes.json", json.dumps(list(classes), indent=2) + "\n")
        self.write("config.json", settings.to_json(config))

    def write_result(self, result: dict) -> None:
        self.write("result.json", json.dumps(result, indent=2) + "\n")

    def forget_result(self) -> None:
        """Removes the result of a run that goes on."""
        self.remove("result.json")

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a file, such as "config.json" or "nan/nan.json", wholly or not at all, from the main process."""
        if parallel.is_main_process():
            files.write(self.path / name, content)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there, from the main process."""
        if parallel.is_main_process():
            (self.path / name).unlink(missing_ok=True)

    def config(self) -> ConfigDict:
        return settings.from_json(self._read("config.json"))

    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, self._json("classes.json", list)))

    def result(self) -> dict | None:
        """The final result, or None while the run is not done."""
        return self._json("result.json", dict) if (self.path / "result.json").exists() else None

    def _json(self, name: str, kind: type) -> list | dict:
        try:
            value = json.loads(self._read(name))
            if not isinstance(value, kind):
                raise ValueError(f"it holds no {kind.__name__}")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path / name} is damaged ({first_line(error)}): restore the file") from None
        return value

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text()
        except OSError:
            raise UserError(f"{self.path} is no run directory, for it has no {name}: check --workdir") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path / name} is damaged ({first_line(error)}): restore the file") from None

    def open_checkpoints(self, keep: int, best_metric: str, read_only: bool = False) -> None:
        """Makes `checkpoints` ready for saving and restoring; arguments and errors are those of `Checkpoints`."""
        self.checkpoints = Checkpoints(self.path, keep, best_metric, read_only)

    def __enter__(self) -> "WorkDir":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Closes it, unless another process of the run is lost: what is going on would wait for that one in vain."""
        if not cluster.lost_another(error):
            self.close()

    def close(self) -> None:
        """Ends what is going on in the background; does nothing if no checkpoints were opened."""
        if self.checkpoints is not None:
            self.checkpoints.close()
