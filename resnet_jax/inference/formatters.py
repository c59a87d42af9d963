"""How answers about pictures are written: as lines for people, as CSV, or all in one line of JSON.

Lines and CSV come out as they are known, one for each picture.
"""

import csv
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from resnet_jax.inference.predict import Prediction
from resnet_jax.terminal import printable

WIDEST_PICTURE, WIDEST_NAME = 60, 40  # characters; what is longer moves the rest of its line


class Scale(NamedTuple):
    """What names and scores of answers are called, and how a score is shown to people."""

    name: str
    score: str
    shown: str


PROBABILITY = Scale("class", "probability", "{:.2%}")
SIMILARITY = Scale("similar", "similarity", "{:.4f}")


class Lines:
    """A table that grows.

    Args:
      scale: of the answers.
      top: names and scores in each of them.
      pictures: all that there will be answers about, for the width of their column.
      names: all that answers may name.
    """

    def __init__(self, scale: Scale, top: int, pictures: Sequence[str], names: Sequence[str]):
        self._scale = scale
        self._picture_width = _width(("picture", *pictures), WIDEST_PICTURE)
        self._name_width = _width((scale.name, *names), WIDEST_NAME)
        header = self._line("picture", [(scale.name, scale.score)] * top)
        print(f"{header}\n{'-' * len(header)}", flush=True)

    def write(self, answers: Sequence[Prediction]) -> None:
        for picture, best, problem in answers:
            cells = [(printable(name), self._scale.shown.format(score)) for name, score in best]
            line = self._line(printable(picture), cells)
            print(line if problem is None else f"{line}  cannot be read: {problem}")
        sys.stdout.flush()

    def end(self, **known) -> None:
        """There is nothing more to say."""

    def _line(self, picture: str, cells: Sequence[tuple[str, str]]) -> str:
        shown = (f"{name.ljust(self._name_width)} {score.rjust(len(self._scale.score))}" for name, score in cells)
        return "  ".join([picture.ljust(self._picture_width), *shown])


class Csv:
    """A header, and a row for each picture; the arguments are those of `Lines`."""

    def __init__(self, scale: Scale, top: int, pictures: Sequence[str], names: Sequence[str]):
        self._top = top
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        columns = [f"{column}_{place}" for place in range(1, top + 1) for column in (scale.name, scale.score)]
        self._writer.writerow(["picture", *columns, "error"])

    def write(self, answers: Sequence[Prediction]) -> None:
        for picture, best, problem in answers:
            cells = [cell for name, score in best for cell in (name, f"{score:.6f}")]
            cells += [""] * (2 * self._top - len(cells))
            self._writer.writerow([picture, *cells, problem or ""])
        sys.stdout.flush()

    def end(self, **known) -> None:
        """There is nothing more to say."""


class Json:
    """One line, at the end; the arguments are those of `Lines`."""

    def __init__(self, scale: Scale, top: int, pictures: Sequence[str], names: Sequence[str]):
        self._scale, self._answers = scale, []

    def write(self, answers: Sequence[Prediction]) -> None:
        for picture, best, problem in answers:
            ranked = [{self._scale.name: name, self._scale.score: score} for name, score in best]
            self._answers.append({"picture": picture, "best": ranked, "error": problem})

    def end(self, **known) -> None:
        """Prints the line, with what else is `known`."""
        print(json.dumps({**known, "pictures": self._answers}), flush=True)


def _width(texts: Sequence[str], most: int) -> int:
    return min(most, max(map(len, texts)))


FORMATS = {"text": Lines, "csv": Csv, "json": Json}
