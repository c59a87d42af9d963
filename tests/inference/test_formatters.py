"""Each format, written with the same predictions."""

import csv
import io
import json
import sys

import pytest

from resnet_jax.inference.formatters import CLASS_COLUMNS, FORMATTERS, SIMILARITY_COLUMNS
from resnet_jax.inference.predict import FilePrediction

ODD = "odd, \udcff\n\x1b[2J.png"
PATHS = ["a.png", ODD, "c.png"]
PREDICTIONS = [
    FilePrediction("a.png", [("cat", 0.75), ("dog", 0.25)], None),
    FilePrediction(ODD, [("dog", 1.0), ("cat", 1e-9)], None),
    FilePrediction("c.png", [], 'it is "wet", and cold'),
]


@pytest.fixture
def write(capsys):
    """Return a function that writes all predictions in a format.

    It returns what was printed before the last prediction was written, and what was printed from then on.
    """

    def write(name, columns=CLASS_COLUMNS):
        sys.stdout.reconfigure(errors="replace")  # As the command `predict` does.
        formatter = FORMATTERS[name](columns, 2, PATHS, ("cat", "dog"))
        formatter.write(PREDICTIONS[:2])
        before = capsys.readouterr().out
        formatter.write(PREDICTIONS[2:])
        formatter.end(checkpoint_step=7)
        return before, capsys.readouterr().out

    return write


def test_table_is_written_incrementally(write):
    before, after = write("text")
    assert before.splitlines() == [
        "image            class probability  class probability",
        "-----------------------------------------------------",
        "a.png            cat        75.00%  dog        25.00%",
        "odd, ???[2J.png  dog       100.00%  cat         0.00%",
    ]
    assert after == 'c.png            cannot be read: it is "wet", and cold\n'


def test_csv_has_one_row_per_image(write):
    before, after = write("csv")
    rows = list(csv.reader(io.StringIO(before + after, newline="")))
    assert rows == [
        ["picture", "class_1", "probability_1", "class_2", "probability_2", "error"],
        ["a.png", "cat", "0.750000", "dog", "0.250000", ""],
        [ODD.replace("\udcff", "?"), "dog", "1.000000", "cat", "0.000000", ""],
        ["c.png", "", "", "", "", 'it is "wet", and cold'],
    ]
    assert before.startswith("picture,class_1")
    assert "a.png" in before


def test_json_is_one_line_at_the_end(write):
    before, after = write("json", SIMILARITY_COLUMNS)
    assert before == ""
    assert after.count("\n") == 1
    content = json.loads(after)
    assert content["checkpoint_step"] == 7
    assert content["pictures"] == [
        {
            "picture": "a.png",
            "best": [{"similar": "cat", "similarity": 0.75}, {"similar": "dog", "similarity": 0.25}],
            "error": None,
        },
        {
            "picture": ODD,
            "best": [{"similar": "dog", "similarity": 1.0}, {"similar": "cat", "similarity": 1e-9}],
            "error": None,
        },
        {"picture": "c.png", "best": [], "error": 'it is "wet", and cold'},
    ]
