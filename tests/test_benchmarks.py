import json

from benchmarks import tables
from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
PROVENANCE = {
    "benchmark": "start_up",
    "command": "python -m benchmarks.start_up",
    "backend": "cpu",
    "device": "cpu",
    "machine": "x86_64 X",
    "cpu_count": 2,
    "jax": "0.10.2",
    "commit": "abc",
    "date": "2026-11-25T10:00:00+00:00",
}
PAGE = "Before.\n\n<!-- table: start_up -->\nold\n<!-- end of table -->\n\nAfter.\n"


def test_table_shows_the_newest_line():
    lines = [
        {**PROVENANCE, "figures": [{"recipe": "r", "first": first, "later": [1.0, 3.0, 2.0]}]} for first in (9.0, 7.0)
    ]
    page = tables.fill_tables(PAGE, lines)
    assert page.startswith("Before.\n\n<!-- table: start_up -->\n")
    assert page.endswith("<!-- end of table -->\n\nAfter.\n")
    assert "| r | 7.0 | 2.0 | 3 | 2 cores of x86_64 X, JAX 0.10.2, `abc`, 2026-11-25 |" in page
    assert "Made by `python -m benchmarks.start_up`." in page
    assert "old" not in page
    assert "9.0" not in page
    assert tables.fill_tables(page, lines) == page


def test_numerics_table_compares_runs_with_the_same_seed():
    """The expected numbers were computed by hand."""

    def runs(*losses):
        return [{"loss": loss, "top1": 0.5, "examples": 1000} for loss in losses]

    compared = {"untuned": runs(1.0, 3.0), "the same": runs(1.0, 3.0), "another": runs(1.5, 3.5)}
    lines = [{**PROVENANCE, "recipe": recipe, "runs": compared} for recipe in ("a", "b")]
    rows = [row.split(" | ")[:-1] for row in tables.numerics([*lines, *lines]).splitlines()[2:-2]]
    assert [row[0] for row in rows] == ["| a"] * 3 + ["| b"] * 3
    assert rows[0][1:] == ["untuned", "2.0000 ± 1.4142", "none", "50.00 ± 0.00", "1,000", "2"]
    assert rows[1][3] == "none"
    assert rows[2][2:4] == ["2.5000 ± 1.4142", "+0.5000 ± 0.0000"]


def test_tables_in_the_readme_match_the_recorded_results():
    """If this fails, run `python -m benchmarks.tables`; the tables are never edited by hand."""
    page = (BENCHMARKS / "README.md").read_text()
    lines = map(json.loads, (BENCHMARKS / "results.jsonl").read_text().splitlines())
    assert tables.fill_tables(page, lines) == page
