"""A study: a directory whose subdirectories are ordinary run directories, and `study.json`, which lists them."""

import dataclasses
import enum
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax import files
from resnet_jax.data.sources import canonical_name
from resnet_jax.errors import UserError
from resnet_jax.training import nan_capture
from resnet_jax.workdir.workdir import WorkDir

STUDY_FILE = "study.json"


class Outcome(enum.StrEnum):
    """How the training of a run has ended."""

    FINISHED = "finished"
    FAILED = "failed"
    DIVERGED = "diverged"  # failed because a loss was not finite, which would happen again
    PRUNED = "pruned"  # stopped because other runs were better
    STOPPED = "stopped"  # stopped by a signal, and to be resumed


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe with the settings that the user has changed by flags.

    Attributes:
      path: the value of --config, such as "configs/cifar10.py:resnet20".
      overrides: the settings that flags change, by name.
      config: the resulting settings.
      flags: flags of the program for all runs, such as "--notune_cpu".
    """

    path: str
    overrides: Mapping[str, object]
    config: ConfigDict
    flags: tuple[str, ...] = ()

    def changed(self, changes: Mapping[str, object]) -> "Recipe":
        """Return the recipe with more settings changed, by name."""
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(dict(changes))
        return dataclasses.replace(self, overrides={**self.overrides, **changes}, config=config)


@dataclasses.dataclass(frozen=True)
class SubRun:
    """A run of a study.

    Attributes:
      name: the name of the run directory in the directory of the study, such as "seed0".
      directory: the run directory.
      recipe: what the run trains.
      ended_as: how an earlier start of the study has ended the run, if the run is not to be resumed, because it would
        end in the same way; otherwise None.
    """

    name: str
    directory: WorkDir
    recipe: Recipe
    ended_as: Outcome | None = None

    @property
    def workdir(self) -> str:
        """The path of the run directory."""
        return str(self.directory.path)

    def is_finished(self) -> bool:
        """Return whether the run has reached its last epoch.

        Raises:
          UserError: if the directory holds a run with other settings.
        """
        if not self.directory.exists():
            return False
        requested = self.recipe.config.copy_and_resolve_references()
        requested.dataset.name = canonical_name(requested.dataset.name)
        stored = self.directory.config()
        try:
            settings.resume(stored, requested)
        except UserError as error:
            raise UserError(f"{self.workdir}: {error}") from None
        return self.directory.result() is not None and requested.num_epochs == stored.num_epochs

    def has_diverged(self) -> bool:
        """Return whether the run ended because a loss or a gradient norm was not finite."""
        return (self.directory.path / nan_capture.FOLDER).exists()

    def result(self) -> dict:
        """Return the result of the finished run."""
        result = self.directory.result()
        assert result is not None
        return result

    def arguments(self) -> list[str]:
        """Return the command-line arguments that train the run or resume it."""
        overrides = [f"--config.{name}={value}" for name, value in self.recipe.overrides.items()]
        return [f"--config={self.recipe.path}", *overrides, f"--workdir={self.workdir}", *self.recipe.flags]


class Study:
    """The directory of a study, which need not exist yet.

    Args:
      path: the directory.
      kind: "seeds", "folds", "grid" or "search".
      recipe: what all runs have in common.
      fixed: what must not change when the study is resumed, as JSON values.

    Attributes:
      path: the absolute path of the directory.
      kind: see above.
      changes: in which settings each run differs from the recipe, by the name of the run, in the order of their start.
      outcomes: how each run that has been started has ended, by its name.

    Raises:
      UserError: if the directory holds an ordinary run or another study, is not writable, or is in a bucket.
    """

    def __init__(self, path: str, kind: str, recipe: Recipe, fixed: Mapping[str, object] | None = None):
        if "://" in path:
            raise UserError(
                f"a study needs a directory on this machine ({path} is in a bucket). Choose another --workdir."
            )
        directory = WorkDir(path)
        self.path, self.kind = pathlib.Path(directory.path), kind
        if directory.exists():
            raise UserError(f"{path} is the directory of a single run. Choose another --workdir.")
        directory.make()
        stored = _read(self.path)
        file, colon, argument = recipe.path.partition(":")
        self._fixed = {"kind": kind, "recipe": f"{os.path.realpath(file)}{colon}{argument}", **(fixed or {})}
        for name, value in self._fixed.items():
            if stored and stored.get(name) != value:
                raise UserError(
                    f"{path} holds another study ({name} {stored.get(name)}, now {value}). Choose another --workdir."
                )
        self.changes: dict[str, dict[str, object]] = {}
        self.outcomes: dict[str, Outcome] = {}
        for run in stored.get("runs", ()):
            # JSON has no tuples.
            self.changes[run["name"]] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in run["changes"].items()
            }
            if run["outcome"]:
                self.outcomes[run["name"]] = Outcome(run["outcome"])
        self._recipe = recipe

    def add(self, name: str, changes: Mapping[str, object]) -> SubRun:
        """Return a run that differs from the recipe in these settings, and record it."""
        self.changes[name] = dict(changes)
        self._write()
        outcome = self.outcomes.get(name)
        ended_as = outcome if outcome in (Outcome.PRUNED, Outcome.DIVERGED) else None
        return SubRun(name, WorkDir(str(self.path / name)), self._recipe.changed(changes), ended_as)

    def record(self, name: str, outcome: Outcome) -> None:
        """Record how a run has ended."""
        self.outcomes[name] = outcome
        self._write()

    def write(self, name: str, content: str) -> None:
        """Write a file in the directory, atomically."""
        files.write(self.path / name, content)

    def _write(self) -> None:
        runs = [
            {"name": name, "changes": changes, "outcome": self.outcomes.get(name)}
            for name, changes in self.changes.items()
        ]
        self.write(STUDY_FILE, json.dumps({**self._fixed, "runs": runs}, indent=2) + "\n")


def _read(path: pathlib.Path) -> dict:
    """Return the content of `study.json`, or {} if there is none."""
    try:
        content = json.loads((path / STUDY_FILE).read_text(encoding="utf-8"))
        if not all(run.keys() >= {"name", "changes", "outcome"} for run in content["runs"]):
            raise ValueError("a run lacks a key")
        return content
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}). Check --workdir.") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path / STUDY_FILE} is damaged. Restore the file, or choose another --workdir.") from None


def finished_runs(workdirs: Sequence[str]) -> list[str]:
    """Replace each directory of a study by the directories of its finished runs; keep other directories.

    Raises:
      UserError: if a study has no finished run.
    """
    expanded: list[str] = []
    for workdir in workdirs:
        path = pathlib.Path(workdir).expanduser()
        content = _read(path)
        if not content:
            expanded.append(workdir)
            continue
        names = [run["name"] for run in content["runs"] if (path / run["name"] / "result.json").exists()]
        if not names:
            raise UserError(f"no run of the study {workdir} is finished. Run its command again to resume it.")
        expanded += [str(path / name) for name in names]
    return expanded
