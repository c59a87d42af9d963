"""The validation figures of a run's checkpoints, in `figures.json`, and which of them is the best."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from etils import epath

from resnet_jax import files, parallel
from resnet_jax.errors import UserError, first_line

NAME = "figures.json"  # beside the checkpoints: figures are known only when a checkpoint may be on disk


class Best(NamedTuple):
    """The best checkpoint so far and its validation figures."""

    step: int
    figures: dict[str, float]


class ValidationFigures:
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
