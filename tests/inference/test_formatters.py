"""The same answers in each format."""

import csv
import io
import json
import sys

import pytest

from resnet_jax.inference.formatters import FORMATS, PROBABILITY, SIMILARITY
from resnet_jax.inference.predict import Prediction

ODD = "odd, \udcff\n\x1b[2J.png"
PICTURES = ["a.png", ODD, "c.png"]
ANSWERS = [
    Prediction("a.png", [("cat", 0.75), ("dog", 0.25)], None),
    Prediction(ODD, [("dog", 1.0), ("cat", 1e-9)], None),
    Prediction("c.png", [], 'it is "wet", and cold'),
]


@pytest.fixture
def written(capsys):
    """A function that gives what a format prints of the answers, in two parts: before the last answer, and after."""

    def write(name, scale=PROBABILITY):
        sys.stdout.reconfigure(errors="replace")  # As the verb does.
        writer = FORMATS[name](scale, 2, PICTURES, ("cat", "dog"))
        writer.write(ANSWERS[:2])
        before = capsys.readouterr().out
        writer.write(ANSWERS[2:])
        writer.end(checkpoint_step=7)
        return before, capsys.readouterr().out

    return write


def test_lines_come_out_as_they_are_known(written):
    before, after = written("text")
    assert before.splitlines() == [
        "picture          class probability  class probability",
        "-----------------------------------------------------",
        "a.png            cat        75.00%  dog        25.00%",
        "odd, ???[2J.png  dog       100.00%  cat         0.00%",
    ]
    assert after == 'c.png            cannot be read: it is "wet", and cold\n'


def test_csv_holds_a_row_for_each_picture(written):
    before, after = written("csv")
    rows = list(csv.reader(io.StringIO(before + after, newline="")))
    assert rows == [
        ["picture", "class_1", "probability_1", "class_2", "probability_2", "error"],
        ["a.png", "cat", "0.750000", "dog", "0.250000", ""],
        [ODD.replace("\udcff", "?"), "dog", "1.000000", "cat", "0.000000", ""],
        ["c.png", "", "", "", "", 'it is "wet", and cold'],
    ]
    assert before.startswith("picture,class_1")
    assert "a.png" in before


def test_json_is_one_line_at_the_end(written):
    before, after = written("json", SIMILARITY)
    assert before == ""
    assert after.count("\n") == 1
    found = json.loads(after)
    assert found["checkpoint_step"] == 7
    assert found["pictures"] == [
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
