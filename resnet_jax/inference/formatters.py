"""Output formats of predictions: a table, CSV, or one line of JSON.

The table and CSV are written line by line, each line as soon as the prediction for its image is known.
The CSV column `picture` and the JSON keys `picture` and `pictures` keep these names for scripts.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from resnet_jax.inference.predict import FilePrediction
from resnet_jax.terminal import print_result, printable

MAX_PATH_WIDTH = 60  # characters; a longer path shifts the rest of its line
MAX_NAME_WIDTH = 40  # characters; a longer name shifts the rest of its line


class Columns(NamedTuple):
    """Column titles of the names and scores in a ranking, and the format of a score in the table."""

    name: str
    score: str
    score_format: str


CLASS_COLUMNS = Columns("class", "probability", "{:.2%}")
SIMILARITY_COLUMNS = Columns("similar", "similarity", "{:.4f}")


class Formatter(Protocol):
    """Writes predictions to stdout."""

    def write(self, predictions: Sequence[FilePrediction]) -> None:
        """Add the predictions for a batch of images."""

    def end(self, **summary) -> None:
        """Finish the output. JSON output includes `summary`."""


class TableFormatter:
    """An aligned table.

    Args:
      columns: the column titles of a ranking.
      top: number of names in each ranking.
      paths: the paths of all images that will be written; they determine the width of the first column.
      names: all names that rankings can contain; they determine the width of the name columns.
    """

    def __init__(self, columns: Columns, top: int, paths: Sequence[str], names: Sequence[str]):
        self._columns = columns
        self._path_width = _width(("image", *paths), MAX_PATH_WIDTH)
        self._name_width = _width((columns.name, *names), MAX_NAME_WIDTH)
        header = self._line("image", [(columns.name, columns.score)] * top)
        print_result(f"{header}\n{'-' * len(header)}")

    def write(self, predictions: Sequence[FilePrediction]) -> None:
        lines = []
        for path, ranking, problem in predictions:
            cells = [(printable(name), self._columns.score_format.format(score)) for name, score in ranking]
            line = self._line(printable(path), cells)
            lines.append(line if problem is None else f"{line}  cannot be read: {problem}")
        print_result("\n".join(lines))

    def end(self, **summary) -> None:
        pass

    def _line(self, path: str, cells: Sequence[tuple[str, str]]) -> str:
        score_width = len(self._columns.score)
        ranking = [f"{name.ljust(self._name_width)} {score.rjust(score_width)}" for name, score in cells]
        return "  ".join([path.ljust(self._path_width), *ranking])


class CsvFormatter:
    """CSV: a header, and one row per image. The arguments are those of `TableFormatter`."""

    def __init__(self, columns: Columns, top: int, paths: Sequence[str], names: Sequence[str]):
        self._top = top
        titles = [f"{title}_{number}" for number in range(1, top + 1) for title in (columns.name, columns.score)]
        _print_csv([["picture", *titles, "error"]])

    def write(self, predictions: Sequence[FilePrediction]) -> None:
        rows = []
        for path, ranking, problem in predictions:
            cells = [cell for name, score in ranking for cell in (name, f"{score:.6f}")]
            cells += [""] * (2 * self._top - len(cells))
            rows.append([path, *cells, problem or ""])
        _print_csv(rows)

    def end(self, **summary) -> None:
        pass


class JsonFormatter:
    """JSON: a single line at the end. The arguments are those of `TableFormatter`."""

    def __init__(self, columns: Columns, top: int, paths: Sequence[str], names: Sequence[str]):
        self._columns = columns
        self._predictions: list[dict[str, object]] = []

    def write(self, predictions: Sequence[FilePrediction]) -> None:
        for path, ranking, problem in predictions:
            best = [{self._columns.name: name, self._columns.score: score} for name, score in ranking]
            self._predictions.append({"picture": path, "best": best, "error": problem})

    def end(self, **summary) -> None:
        print_result(json.dumps({**summary, "pictures": self._predictions}))


FORMATTERS: dict[str, Callable[..., Formatter]] = {
    "text": TableFormatter,
    "csv": CsvFormatter,
    "json": JsonFormatter,
}


def _print_csv(rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    print_result(text.getvalue().removesuffix("\n"))


def _width(texts: Sequence[str], max_width: int) -> int:
    return min(max_width, max(map(len, texts)))
