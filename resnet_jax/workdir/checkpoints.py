"""The checkpoints of a run: saved in the background, restored onto any devices. The only module that imports Orbax.

Each checkpoint is a directory named after its step. Orbax keeps the newest few and the best.
"""

import contextlib
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from resnet_jax import files
from resnet_jax.errors import UserError, first_line, missing_extra
from resnet_jax.runtime import parallel

logger = logging.getLogger(__name__)

METADATA_ITEM = "host"  # the item that holds the JSON values of a checkpoint; the name is that of older checkpoints
DIGESTS = "digests"  # the key of the digests in that item
# Validation metrics have a file of their own, because they may be known only after their checkpoint is on disk.
# The name of the file is historical.
METRICS_FILE = "figures.json"
ARRAY_INDEX = "manifest.ocdbt"  # the file in which Orbax looks up the arrays of an item; it is written last


# --- Checkpoints -----------------------------------------------------------------------------------------------------


class Checkpoints:
    """The checkpoints in `checkpoints/` of a run directory.

    Args:
      workdir: the run directory.
      keep: how many of the newest checkpoints to keep. The best one is kept as well.
      best_metric: the validation metric that decides which checkpoint is best: "top1", "loss", "map" or "knn".
      read_only: change nothing on disk, not even the leftovers of an interrupted save.

    Attributes:
      metrics: the validation metrics of the checkpoints.

    Raises:
      UserError: if the directory cannot be read.
    """

    def __init__(self, workdir: epath.Path, keep: int, best_metric: str, read_only: bool = False):
        self._workdir = workdir
        self._read_only = read_only
        self._folder = workdir / "checkpoints"
        self._unchecked: list[epath.Path] = []  # the index files of the pending save
        newest = preservation_policy.LatestN(keep)
        with (
            self._reading(f"the directory {self._folder}", "Check that it is intact and readable."),
            _orbax_warnings_suppressed(),
        ):
            options = ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy([newest, _KeepBest(self)]),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        self.metrics = ValidationMetrics(workdir, best_metric, self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Return the step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def chosen_step(self) -> int | None:
        """Return the step of the checkpoint that represents the run: the best on validation, else the newest."""
        return max(self._manager.all_steps(), key=self.metrics.rank, default=None)

    def save(self, step: int, items: Mapping[str, object], metadata: dict, metrics: dict[str, float] | None) -> None:
        """Start to save a checkpoint in the background.

        If the checkpoint exists, because it was saved before its evaluation, only its metrics are added.

        Args:
          step: the number of steps taken.
          items: a pytree of NumPy arrays per item name. The arrays must not be changed afterwards.
          metadata: JSON values to save beside the arrays.
          metrics: the validation metrics at this step, or None if the model has not been evaluated at it.

        Raises:
          UserError: if the disk has too little space, or if the previous checkpoint could not be written.
        """
        self.metrics.add(step, metrics)
        if step in self._manager.all_steps():
            return
        self._check_free_space(sum(leaf.nbytes for leaf in jax.tree.leaves(items)))
        digests = {
            METADATA_ITEM: digest_of_json(metadata),
            **{name: _leaf_digests(tree) for name, tree in items.items()},
        }
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items() if jax.tree.leaves(tree)}
        self.wait()
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(**arrays, **{METADATA_ITEM: ocp.args.JsonSave({**metadata, DIGESTS: digests})}),
            )
        self._unchecked = [self._folder / str(step) / name / ARRAY_INDEX for name in arrays]

    def wait(self) -> None:
        """Block until all saves are on disk, and check that the arrays of the last one can be found.

        Raises:
          UserError: if one of them failed.
        """
        index_files, self._unchecked = self._unchecked, []
        with self._writing():
            self._manager.wait_until_finished()
            if parallel.is_main_process():  # Other machines may see new files later.
                missing = [path for path in index_files if not path.exists()]
                if missing:
                    raise OSError(f"Orbax did not write {missing[0]}")

    def restore(self, step: int, items: Mapping[str, object]) -> tuple[dict[str, Any], dict]:
        """Restore items of a checkpoint and its JSON values.

        Args:
          step: the step of a checkpoint.
          items: a pytree of `jax.ShapeDtypeStruct` per item name. Each leaf has the sharding that its array will get.
            The number of devices may differ from when the checkpoint was saved.

        Returns:
          The restored pytree per item name, and the JSON values.

        Raises:
          UserError: if the checkpoint has different items or shapes, or if any bit of an array differs from what
            was saved.
        """
        requested = {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
        arrays = {name: ocp.args.StandardRestore(tree) for name, tree in requested.items()}
        path = self._folder / str(step)
        remedy = f"If it is damaged or belongs to another model, remove {path} to use another checkpoint."
        with self._reading(f"checkpoint {step}", remedy):
            restored = self._manager.restore(
                step, args=ocp.args.Composite(**arrays, **{METADATA_ITEM: ocp.args.JsonRestore()})
            )
            metadata = dict(restored[METADATA_ITEM])
            saved_digests = metadata.pop(DIGESTS)
            if saved_digests[METADATA_ITEM] != digest_of_json(metadata):
                raise ValueError("its JSON values differ from what was saved")
            for name in requested:
                for leaf, digest in _leaf_digests(restored[name]).items():
                    if digest != saved_digests[name][leaf]:
                        raise ValueError(f"{name}{leaf} differs from what was saved")
        return {name: restored[name] if name in requested else items[name] for name in items}, metadata

    def restore_newest(self, items: Mapping[str, object]) -> tuple[int, dict[str, Any], dict]:
        """Restore the newest intact checkpoint. There must be at least one checkpoint.

        Newer, damaged checkpoints are moved to the directory `damaged`, with a warning for each.

        Args:
          items: see `restore`.

        Returns:
          The step of the checkpoint, and what `restore` returns.

        Raises:
          UserError: if no checkpoint can be restored.
        """
        return self._restore_first_intact(sorted(self._manager.all_steps(), reverse=True), items)

    def restore_chosen(self, items: Mapping[str, object]) -> tuple[int, dict[str, Any], dict]:
        """Restore the checkpoint of `chosen_step`. There must be at least one checkpoint.

        If it is damaged, it is moved to the directory `damaged`, with a warning, and the next best is restored. If the
        checkpoints are open for reading only, a damaged one raises `UserError` instead.

        Args, returns and raises: see `restore_newest`.
        """
        best_first = sorted(self._manager.all_steps(), key=self.metrics.rank, reverse=True)
        if self._read_only:
            return best_first[0], *self.restore(best_first[0], items)
        return self._restore_first_intact(best_first, items)

    def _restore_first_intact(
        self, steps: Sequence[int], items: Mapping[str, object]
    ) -> tuple[int, dict[str, Any], dict]:
        """Restore the first intact one of these checkpoints, and set aside the damaged ones before it."""
        damaged: dict[int, UserError] = {}
        for step in steps:
            error = None
            try:
                restored, metadata = self.restore(step, items)
            except UserError as restore_error:
                error = restore_error
            if parallel.sum_over_processes(error is not None):  # All processes must use the same checkpoint.
                damaged[step] = error or UserError(f"another process cannot read checkpoint {step}")
                continue
            for damaged_step, error in damaged.items():
                path = self._set_aside(damaged_step)
                reason = first_line(error.__cause__ or error)
                logger.warning(
                    f"Checkpoint {damaged_step} is damaged ({reason}). It was moved to {path}. Checkpoint {step} is "
                    "used instead."
                )
            return step, restored, metadata
        raise damaged[steps[0]]

    def close(self) -> None:
        """Wait for pending saves and release Orbax's background threads.

        Raises:
          UserError: if a pending save failed.
        """
        self.wait()
        with self._writing():
            self._manager.close()

    def _set_aside(self, step: int) -> epath.Path:
        """Move a checkpoint to the directory `damaged` and return its new path."""
        path = self._workdir / "damaged" / str(step)
        if parallel.is_main_process():
            path.parent.mkdir(exist_ok=True)
            if path.exists():
                path.rmtree()
            (self._folder / str(step)).rename(path)
        parallel.wait_for_all("a damaged checkpoint is set aside")
        self._manager.reload()
        self.metrics.keep_only(self._manager.all_steps())
        return path

    def _check_free_space(self, needed: int) -> None:
        """Raise `UserError` if fewer than `needed` bytes are free.

        Checking first avoids the pages of messages that TensorStore prints when a save fails; see `library_messages`.
        """
        free = math.inf if "://" in str(self._workdir) else shutil.disk_usage(self._workdir).free
        if free < needed:
            raise UserError(
                f"cannot save a checkpoint in {self._workdir} ({needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB "
                "free). Free some space, then run the same command again to resume from the last checkpoint."
            )

    @contextlib.contextmanager
    def _reading(self, what: str, remedy: str) -> Iterator[None]:
        """Turn any failure into a `UserError`. For damaged files Orbax raises many types, even bare `Exception`."""
        try:
            yield
        except ImportError as error:  # Orbax imports Google's client to determine the type of a bucket.
            raise missing_extra(f"the workdir {self._workdir}", "google-cloud-storage", "gcs") from error
        except Exception as error:
            raise UserError(f"{what} cannot be read ({first_line(error)}). {remedy}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a full or broken disk into a `UserError`. TensorStore reports them as ValueError."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot save a checkpoint in {self._workdir} ({first_line(error)}). If the disk is full, free some "
                "space. Then run the same command again to resume from the last checkpoint."
            ) from error


@contextlib.contextmanager
def _orbax_warnings_suppressed() -> Iterator[None]:
    """Suppress Orbax's warnings about options that have no effect when it only reads."""
    absl_logger = logging.getLogger("absl")
    level = absl_logger.level
    absl_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl_logger.setLevel(level)


class _KeepBest(preservation_policy.PreservationPolicy):
    """Orbax policy that keeps the checkpoint with the best validation metrics."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        best = self._checkpoints.metrics.best()
        return [best is not None and checkpoint.step == best.step for checkpoint in checkpoints]


# --- Validation metrics of the checkpoints, and which checkpoint is best ---------------------------------------------


class Best(NamedTuple):
    """The step of the best checkpoint and its validation metrics."""

    step: int
    metrics: dict[str, float]


class ValidationMetrics:
    """The validation metrics of a run's checkpoints, stored in `figures.json`.

    Args:
      workdir: the run directory.
      best_metric: "loss", whose smallest value is best, or "top1", "map" or "knn", whose largest value is best.
      steps: the steps of the checkpoints. Stored metrics of any other step are ignored, because a process that was
        killed during a save may have left them.

    Raises:
      UserError: if the file is damaged.
    """

    def __init__(self, workdir: epath.Path, best_metric: str, steps: Collection[int]):
        self._path = workdir / METRICS_FILE
        self._best_metric = best_metric
        self._sign = -1 if best_metric == "loss" else 1
        if steps and not self._path.exists():
            logger.warning(
                f"{self._path} is missing, so the newest checkpoint ({max(steps)}) counts as the best. Restore the "
                "file to use the checkpoint with the best validation metrics."
            )
        self._metrics = self._read()
        best = self.best()
        self._metrics = {step: metrics for step, metrics in self._metrics.items() if step in steps}
        if steps and best and best.step not in steps:
            logger.warning(
                f"Checkpoint {best.step} has the best validation metrics, but is not on disk. The best of the other "
                "checkpoints is used instead."
            )

    def __contains__(self, step: int) -> bool:
        return step in self._metrics

    def for_step(self, step: int) -> dict[str, float] | None:
        """Return the metrics of a checkpoint; None if it has not been evaluated."""
        metrics = self._metrics.get(step)
        return None if metrics is None else dict(metrics)

    def add(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """Store the metrics of a checkpoint; None: it has not been evaluated.

        In both cases, there is a file afterwards. So if it is missing later, somebody has removed it.
        """
        if metrics:
            self._metrics[step] = dict(metrics)
        if metrics or not self._path.exists():
            self._write()

    def keep_only(self, steps: Collection[int]) -> None:
        """Drop the metrics of all other checkpoints, so that the best one is on disk."""
        self._metrics = {step: metrics for step, metrics in self._metrics.items() if step in steps}
        self._write()

    def best(self) -> Best | None:
        """Return the best checkpoint, or the latest of equally good ones; None if none has a finite `best_metric`."""
        rated = [step for step, metrics in self._metrics.items() if self._rating(metrics) > -math.inf]
        if not rated:
            return None
        step = max(rated, key=self.rank)
        return Best(step, dict(self._metrics[step]))

    def rank(self, step: int) -> tuple[float, int]:
        """Return a sort key that is larger for better metrics, then for later steps, and smallest without metrics."""
        metrics = self._metrics.get(step)
        return (self._rating(metrics) if metrics else -math.inf), step

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """Return True if `best_metric` is finite in `metrics`, and at least as good as that of the best checkpoint."""
        best = self.best()
        rating = self._rating(metrics)
        return rating > -math.inf and (best is None or rating >= self._rating(best.metrics))

    def _rating(self, metrics: Mapping[str, float]) -> float:
        """Return a number that is larger for better metrics, and -inf if `best_metric` is not finite."""
        value = self._sign * metrics[self._best_metric]
        return value if math.isfinite(value) else -math.inf

    def _read(self) -> dict[int, dict[str, float]]:
        if not self._path.exists():
            return {}
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            if stored["digest"] != digest_of_json(stored["figures"]):
                raise ValueError("it differs from what was saved")
            return {int(step): metrics for step, metrics in stored["figures"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self._path} is damaged ({first_line(error)}). Restore it, or remove it to use the last checkpoint "
                "as the best."
            ) from None

    def _write(self) -> None:
        if parallel.is_main_process():
            metrics = {str(step): values for step, values in self._metrics.items()}
            files.write(self._path, json.dumps({"figures": metrics, "digest": digest_of_json(metrics)}))


# --- Digests ---------------------------------------------------------------------------------------------------------


def digest_of_json(values: dict) -> str:
    """Return the SHA-256 digest of JSON values.

    Example:
      >>> digest_of_json({"a": 1, "b": 2}) == digest_of_json({"b": 2, "a": 1})
      True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def digest_of_arrays(tree) -> str:
    """Return the SHA-256 digest of a pytree of arrays.

    Example:
      >>> digest_of_arrays({"bias": np.zeros(2)}) == digest_of_arrays({"bias": np.ones(2)})
      False
    """
    return digest_of_json(_leaf_digests(tree))


def _leaf_digests(tree) -> dict[str, str]:
    """Return the SHA-256 digest of each leaf by its path. Orbax alone would restore flipped bits silently."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parallel.fetch(tree))
    return {jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for path, leaf in leaves}
