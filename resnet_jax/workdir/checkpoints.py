"""The checkpoints of a run: saved in the background, restored onto any devices. The only file that knows orbax.

One directory a step: the newest few and the best.
"""

import contextlib
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from resnet_jax import files
from resnet_jax.errors import UserError, first_line
from resnet_jax.runtime import parallel

# --- The validation figures of a run's checkpoints, in `figures.json`, and which of them is the best.


NAME = "figures.json"  # beside the checkpoints: figures are known only when a checkpoint may be on disk


class Best(NamedTuple):
    """The best checkpoint so far and its validation figures."""

    step: int
    figures: dict[str, float]


class ValidationMetrics:
    """Of checkpoints by their steps."""

    def __init__(self, workdir: epath.Path, metric: str, steps: Collection[int]):
        """Reads those of the checkpoints at `steps`; later ones are left of a process that was killed amid a save.

        The best is the one with the largest `metric`, "top1", or the smallest, "loss".

        Raises:
          UserError: if the file is damaged.
        """
        self._path, self._metric, self._sign = workdir / NAME, metric, 1 if metric == "top1" else -1
        self._figures = {step: figures for step, figures in self._read().items() if step in steps}

    def __contains__(self, step: int) -> bool:
        return step in self._figures

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        self._figures[step] = dict(figures)
        self._write()

    def forget(self, step: int) -> None:
        """Of a checkpoint that is no more; the file forgets it with the next that are added."""
        self._figures.pop(step, None)

    def best(self) -> Best | None:
        """The checkpoint with the best figures, the later of two equals; None if none has any."""
        rated = [step for step, figures in self._figures.items() if self._rating(figures) > -math.inf]
        if not rated:
            return None
        step = max(rated, key=lambda step: (self._rating(self._figures[step]), step))
        return Best(step, dict(self._figures[step]))

    def is_best(self, figures: Mapping[str, float]) -> bool:
        """True if figures are as good as those of the best checkpoint, or better."""
        best, rating = self.best(), self._rating(figures)
        return rating > -math.inf and (best is None or rating >= self._rating(best.figures))

    def _rating(self, figures: Mapping[str, float]) -> float:
        """The larger the better; what is not finite is worst."""
        value = self._sign * figures[self._metric]
        return value if math.isfinite(value) else -math.inf

    def _read(self) -> dict[int, dict[str, float]]:
        if not self._path.exists():
            return {}
        try:
            stored = json.loads(self._path.read_text())
            if stored["digest"] != digest_of_json(stored["figures"]):
                raise ValueError("it is not what was saved")
            return {int(step): figures for step, figures in stored["figures"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self._path} is damaged ({first_line(error)}): restore it, or remove it to have the last checkpoint "
                "chosen"
            ) from None

    def _write(self) -> None:
        if parallel.is_main_process():
            figures = {str(step): of for step, of in self._figures.items()}
            files.write(self._path, json.dumps({"figures": figures, "digest": digest_of_json(figures)}))


def digest_of_json(values: dict) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


HOST = "host"  # the checkpoint's item of JSON values
DIGESTS = "digests"


class Checkpoints:
    """What is in `checkpoints/` of a run directory.

    Attributes:
      figures: those of the validation.
    """

    def __init__(self, workdir: epath.Path, keep: int, best_metric: str, read_only: bool = False):
        """The newest `keep` checkpoints stay, and the best in `best_metric`.

        With `read_only` nothing is touched, not even what an interrupted save has left.

        Raises:
          UserError: if what is there cannot be read.
        """
        self._workdir, self._folder = workdir, workdir / "checkpoints"
        newest = preservation_policy.LatestN(keep)
        with self._reading("the directory", self._folder), _without_warnings():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy([newest, _Chosen(self)]),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        self.figures = ValidationMetrics(workdir, best_metric, self._manager.all_steps())

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def chosen_step(self) -> int | None:
        """The checkpoint that the run is judged by: the best on validation, without validation the last."""
        best = self.figures.best()
        return best.step if best else self.latest_step()

    def save(self, step: int, items: Mapping[str, object], host: dict, figures: dict[str, float] | None) -> None:
        """Saves pytrees of host arrays, each under its name, with JSON values beside them; returns before it is done.

        Args:
          step: the steps taken.
          items: pytrees of NumPy arrays that nobody changes afterwards.
          host: JSON values.
          figures: of the validation, if there are any of this step.

        Raises:
          UserError: if there is no room for it, or if the one before could not be written.
        """
        if figures:
            self.figures.add(step, figures)
        if step in self._manager.all_steps():  # It was saved before its evaluation, which was interrupted.
            return
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(items)))
        digests = {HOST: digest_of_json(host), **{name: _digests(tree) for name, tree in items.items()}}
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items() if jax.tree.leaves(tree)}
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(**arrays, **{HOST: ocp.args.JsonSave({**host, DIGESTS: digests})}),
            )

    def _check_room(self, needed: int) -> None:
        """Looks before it is written: of a save that breaks off TensorStore prints pages, see `library_messages`."""
        free = math.inf if "://" in str(self._workdir) else shutil.disk_usage(self._workdir).free
        if free < needed:
            raise UserError(
                f"cannot save a checkpoint in {self._workdir}, for it takes {needed / 1e6:,.1f} MB, and there are "
                f"{free / 1e6:,.1f}: make room, and run the same command again to go on from the last one"
            )

    def wait(self) -> None:
        """Returns when all saves are on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore(self, step: int, items: Mapping[str, object]) -> tuple[dict[str, object], dict]:
        """Restores the named pytrees of a checkpoint, and its JSON values.

        Args:
          step: a saved step.
          items: for each name a pytree of `jax.ShapeDtypeStruct` with shardings: where each array is to live, whatever
            number of devices wrote it.

        Raises:
          UserError: if the checkpoint does not fit, or if an array is not bit for bit what was saved.
        """
        wanted = {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
        arrays = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        with self._reading(f"checkpoint {step}", self._folder / str(step)):
            restored = self._manager.restore(step, args=ocp.args.Composite(**arrays, **{HOST: ocp.args.JsonRestore()}))
            host = dict(restored[HOST])
            saved_digests = host.pop(DIGESTS)
            if saved_digests[HOST] != digest_of_json(host):
                raise ValueError("its JSON values are not what was saved")
            for name in wanted:
                for leaf, digest in _digests(restored[name]).items():
                    if digest != saved_digests[name][leaf]:
                        raise ValueError(f"{name}{leaf} is not what was saved")
        return {name: restored[name] if name in wanted else items[name] for name in items}, host

    def restore_newest(
        self, items: Mapping[str, object], tell: Callable[[str], None]
    ) -> tuple[int, dict[str, object], dict]:
        """The newest checkpoint that is intact, of at least one: its step, and what `restore` gives.

        Later ones, which are damaged, are set aside in the directory `damaged`, and `tell` takes a line on each.

        Raises:
          UserError: if not one of them can be restored.
        """
        damaged: dict[int, UserError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            error = None
            try:
                restored, host = self.restore(step, items)
            except UserError as problem:
                error = problem
            if parallel.total(error is not None):  # All processes take the same one.
                damaged[step] = error or UserError(f"another process cannot read checkpoint {step}")
                continue
            for other, error in damaged.items():
                place = self._set_aside(other)
                tell(f"Checkpoint {other} is damaged ({first_line(error.__cause__ or error)}), and is now in {place}.")
            return step, restored, host
        raise damaged[max(damaged)]

    def _set_aside(self, step: int) -> epath.Path:
        """Moves a checkpoint out of the way."""
        place = self._workdir / "damaged" / str(step)
        if parallel.is_main_process():
            place.parent.mkdir(exist_ok=True)
            if place.exists():
                place.rmtree()
            (self._folder / str(step)).rename(place)
        parallel.wait_for_all("a damaged checkpoint is set aside")
        self._manager.reload()
        self.figures.forget(step)
        return place

    def close(self) -> None:
        """Ends what is going on in the background."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _reading(self, what: str, place: epath.Path) -> Iterator[None]:
        """Turns what goes wrong into a sentence; of damaged files Orbax raises many types, even bare `Exception`."""
        try:
            yield
        except ImportError as error:  # Orbax asks Google's client for the kind of a bucket.
            raise UserError(
                f"{place} cannot be read, for a package is missing ({first_line(error)}): "
                "a workdir in a bucket takes pip install google-cloud-storage"
            ) from error
        except Exception as error:
            raise UserError(
                f"{what} cannot be read ({first_line(error)}): should it be damaged or of another network, "
                f"remove it, in {place}, to use the one before it"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a full or broken disk into a sentence. Tensorstore reports them as ValueError."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot save a checkpoint in {self._workdir} ({first_line(error)}): should the disk be full, "
                "make room, and run the same command again to go on from the last one"
            ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Orbax warns of each option that reading alone makes idle."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Chosen(preservation_policy.PreservationPolicy):
    """Has Orbax keep the checkpoint that the run is judged by."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        best = self._checkpoints.figures.best()
        return [best is not None and checkpoint.step == best.step for checkpoint in checkpoints]


def _digests(tree) -> dict[str, str]:
    """SHA-256 of each leaf's bytes, by its path in the tree. Orbax itself would restore flipped bits silently."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parallel.fetch(tree))
    return {jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for path, leaf in leaves}
