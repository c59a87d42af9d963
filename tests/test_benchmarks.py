import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from benchmarks import accuracy, recipe_settings, run_program, tables
from resnet_jax import config as settings
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
    page = tables.fill_tables(PAGE, lines, tables.TABLES)
    assert page.startswith("Before.\n\n<!-- table: start_up -->\n")
    assert page.endswith("<!-- end of table -->\n\nAfter.\n")
    assert "| r | 7.0 | 2.0 | 3 | 2 cores of x86_64 X, JAX 0.10.2, `abc`, 2026-11-25 |" in page
    assert "Made by `python -m benchmarks.start_up`." in page
    assert "old" not in page
    assert "9.0" not in page
    assert tables.fill_tables(page, lines, tables.TABLES) == page


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


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_match_the_recorded_results_and_the_recipes(page):
    """If this fails, run `python -m benchmarks.tables`; the tables are never edited by hand."""
    text = page.read_text()
    lines = map(json.loads, (BENCHMARKS / "results.jsonl").read_text().splitlines())
    assert "<!-- table: " in text
    assert tables.fill_tables(text, lines, tables.PAGES[page]) == text


def test_imbalance_table_compares_each_setting_with_none_by_seed():
    """The interval was computed with SciPy: the gains are 10 and 20 points, t(0.975, 1) = 12.706."""
    runs = {
        "none": [{"macro_f1": f1, "rare_recall": 0.5, "top1": 0.8} for f1 in (0.6, 0.6)],
        "x=1": [{"macro_f1": f1, "rare_recall": 0.7, "top1": 0.8} for f1 in (0.7, 0.8)],
    }
    line = {**PROVENANCE, "command": "c", "benchmark": "imbalance", "epochs": 3, "runs": runs}
    none, changed = cells(tables.imbalance([line]))
    assert none[:5] == ["none", "60.00 ± 0.00 % (2)", "50.00 ± 0.00 % (2)", "80.00 ± 0.00 % (2)", "-"]
    assert changed[:2] == ["`x=1`", "75.00 ± 7.07 % (2)"]
    assert changed[4] == "+15.00 (-48.53 to +78.53)"


def test_ablation_table_joins_changes_that_were_recorded_apart():
    """Each difference is from the unchanged recipe of the same line, which may be from another machine."""
    provenance = dict.fromkeys(("jax", "commit", "date", "device"), "x") | {"backend": "gpu"}

    def line(**top1_by_change):
        runs = {
            change: [{"top1": top1, "tta_top1": top1, "seconds": 60.0, "provenance": provenance}]
            for change, top1 in top1_by_change.items()
        }
        return {"recipe": "a.py", "epochs": 4, "images": 512, "runs": runs, "command": "c"}

    rows = cells(tables.ablation([line(none=0.7, relu=0.6, sgd=0.1), line(none=0.8, sgd=0.5)]))
    assert [row[1:4] for row in rows] == [
        ["none", "80.00 % (1)", "-"],
        ["relu", "60.00 % (1)", "-10.00"],
        ["sgd", "50.00 % (1)", "-30.00"],
    ]


def test_learning_rate_table_shows_the_difference_between_the_rates():
    line = {
        **PROVENANCE,
        "command": "c",
        "recipe": "configs/digits.py",
        "overrides": [],
        "suggested": [0.01, 1.0],
        "rates": {"recipe": 0.3, "find_lr": 0.1},
        "top1": {"recipe": [0.9, 0.9], "find_lr": [0.91, 0.89]},
    }
    (row,) = cells(tables.learning_rate([line]))
    assert row[:2] == ["`configs/digits.py`", "0.01 to 1"]
    assert row[2].startswith("0.1: 90.00") and row[3].startswith("0.3: 90.00 ± 0.00")
    assert row[4].startswith("+0.00 (-12.71 to +12.71)")


# --- Accuracy ---------------------------------------------------------------------------------------------------------

RESNET20 = "configs/cifar10.py:resnet20"
TEN_EPOCHS = "--config.num_epochs=10"


def accuracy_line(top1, tta_top1=None, recipe=RESNET20, overrides=(), commits=None, **changed_settings):
    """Return a line of results of runs with these accuracies, with the settings of the recipe except those changed."""
    now = recipe_settings.as_json(recipe_settings.load(recipe, overrides))
    commits = commits or ["abc"] * len(top1)
    runs = [
        {
            "seed": seed,
            "top1": value,
            "tta_top1": tta_value,
            "examples": 10_000,
            "seconds_with_compilation": 60.0 * (seed + 1),
            "provenance": {**PROVENANCE, "commit": commit},
        }
        for seed, (value, tta_value, commit) in enumerate(zip(top1, tta_top1 or [None] * 9, commits, strict=False))
    ]
    recorded = {**now, **changed_settings}
    return {**PROVENANCE, "recipe": recipe, "overrides": list(overrides), "settings": recorded, "runs": runs}


def cells(table):
    return [row.strip("| ").split(" | ") for row in table.splitlines()[2:] if row.startswith("|")]


def test_accuracy_table_shows_mean_and_std_over_the_seeds():
    """The expected numbers were computed by hand."""
    line = accuracy_line([0.91, 0.92, 0.93], [0.92, 0.94, 0.96], tta="mirror_translate")
    ((recipe, top1, tta, examples, reference, time, hardware, commit, date, _),) = cells(tables.accuracy([line]))
    assert recipe == f"`{RESNET20}`"
    assert (top1, tta) == ("92.00 ± 1.00 % (3)", "94.00 ± 2.00 % (3), mirror_translate")
    assert (examples, time) == ("10,000", "2 min 00 s")
    assert reference == "91.25 % (He et al. 2015)"
    assert (hardware, commit, date) == ("2 cores of x86_64 X, JAX 0.10.2", "`abc`", "2026-11-25")


def test_accuracy_summary_names_test_time_augmentation():
    line = accuracy_line([0.91, 0.92, 0.93], [0.92, 0.94, 0.96], tta="mirror_translate")
    ((_, top1, reference, time, hardware),) = cells(tables.accuracy_summary([line]))
    assert top1.startswith("92.00 ± 1.00 % (3); with TTA 94.00 ± 2.00 % (3), mirror_translate")
    assert (reference, time, hardware) == ("91.25 % (He et al. 2015)", "2 min 00 s", "2 cores of x86_64 X")


def test_accuracy_of_a_single_seed_has_no_std():
    ((_, top1, tta, *_),) = cells(tables.accuracy([accuracy_line([0.91])]))
    assert (top1, tta) == ("91.00 % (1)", "-")


def test_accuracy_table_shows_the_newest_line_of_each_command():
    lines = [accuracy_line([0.5]), accuracy_line([0.7], overrides=[TEN_EPOCHS]), accuracy_line([0.6])]
    rows = [row[:2] for row in cells(tables.accuracy(lines))]
    assert rows == [[f"`{RESNET20}`", "60.00 % (1)"], [f"`{RESNET20} {TEN_EPOCHS}`", "70.00 % (1)"]]


def test_accuracy_table_joins_seeds_that_were_recorded_apart():
    first = accuracy_line([0.5, 0.6], commits=["a", "b"])
    second = accuracy_line([0.7, 0.8], commits=["c", "d"])
    second["command"] = "python -m benchmarks.accuracy --first_seed=1"
    for run in second["runs"]:
        run["seed"] += 1
    text = tables.accuracy([first, second])
    ((_, top1, *_, commit, _, _),) = cells(text)
    assert (top1, commit) == ("66.67 ± 15.28 % (3)", "`a`; `c`; `d`")  # Seed 1 is 0.7: the newest run of it counts.
    assert text.endswith(f"Made by `{first['command']}`, `{second['command']}`.")
    ((_, top1, *_, commit, _, _),) = cells(tables.accuracy([second, first]))
    assert (top1, commit) == ("63.33 ± 15.28 % (3)", "`a`; `b`; `d`")


def test_accuracy_table_joins_no_seeds_with_other_settings_or_another_kind_of_device():
    changed = accuracy_line([0.5, 0.6], batch_size=64)
    accelerated = accuracy_line([0.7])
    accelerated["runs"][0]["provenance"]["backend"] = "gpu"
    lines = [changed, accelerated, accuracy_line([0.9])]
    assert [row[1] for row in cells(tables.accuracy(lines))] == ["90.00 % (1)", "70.00 % (1)"]


def test_accuracy_table_joins_seeds_of_different_cpus_and_gives_the_time_on_each():
    line = accuracy_line([0.7, 0.8, 0.9])
    line["runs"][0]["provenance"]["machine"] = "x86_64 Y"
    ((_, top1, _, _, _, time, hardware, *_),) = cells(tables.accuracy([line]))
    assert (top1, time) == ("80.00 ± 10.00 % (3)", "1 min 00 s; 2 min 30 s")
    assert hardware == "2 cores of x86_64 Y, JAX 0.10.2; 2 cores of x86_64 X, JAX 0.10.2"


def test_accuracy_table_lists_each_commit_of_the_seeds():
    ((*_, commit, _, _),) = cells(tables.accuracy([accuracy_line([0.5] * 3, commits=["b", "a", "b"])]))
    assert commit == "`b`; `a`"


def test_accuracy_has_a_reference_only_on_the_dataset_of_the_model():
    ((*_, reference, _, _),) = cells(tables.accuracy_summary([accuracy_line([0.9], recipe="configs/digits.py")]))
    assert reference == "-"


def test_accuracy_of_a_changed_recipe_is_stale():
    line = accuracy_line([0.9], **{"optimizer.learning_rate": 0.3, "batch_size": 64})
    assert cells(tables.accuracy([line]))[0][-1] == "stale: batch_size, optimizer.learning_rate"
    assert cells(tables.accuracy_summary([line]))[0][1] == "90.00 % (1) (stale)"


def test_accuracy_of_an_unchanged_recipe_is_not_stale():
    changes_without_effect = {"seed": 3, "log_every_steps": 7, "steps_per_call": 1, "dataset.mean": [0.5, 0.5, 0.5]}
    line = accuracy_line([0.9], overrides=[TEN_EPOCHS], **changes_without_effect)
    assert cells(tables.accuracy([line]))[0][-1] == "unchanged"


def test_accuracy_is_not_stale_because_of_a_new_setting_with_its_default_value():
    line = accuracy_line([0.9])
    del line["settings"]["ema_decay"], line["settings"]["augment.crop_padding"]
    assert recipe_settings.changes_since(line) == "augment.crop_padding"  # The recipe sets only this one.


def test_accuracy_is_stale_if_the_recipe_or_a_setting_is_gone():
    lines = [accuracy_line([0.9]), accuracy_line([0.9], removed_setting=1)]
    assert recipe_settings.changes_since(lines[1]) == "removed_setting"
    for change in ({"recipe": "configs/removed.py"}, {"overrides": ["--config.removed=1"]}):
        assert "does not take this command" in recipe_settings.changes_since({**lines[0], **change})


# In place of `main.py repeat`: it trains in no time. `behavior.json` says for which seeds it behaves otherwise.
FAKE_PROGRAM = """
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
flags = dict(argument.split("=", 1) for argument in sys.argv[2:])
with open(here / "commands.txt", "a") as file:
    print(*sys.argv[1:], file=file)
for seed in map(str, range(*map(int, flags["--seeds"].split(":")))):
    behavior = json.loads((here / "behavior.json").read_text()).get(seed, {})
    if "exit_code" in behavior:
        sys.exit(behavior["exit_code"])
    if "wait" in behavior:
        try:
            print("The fake program waits.", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            sys.exit(130)
    workdir = pathlib.Path(flags["--workdir"], "seed" + seed)
    workdir.mkdir(parents=True, exist_ok=True)
    settings = json.loads((here / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**settings, "seed": int(seed)}))
    result = {
        "checkpoint_step": 600,
        "validation": None,
        "test": {"top1": 0.9 + int(seed) / 100, "examples": 359},
        "seconds": 9.0,
        "spent": {"training": 9.0, "compilation": 1.0},
        "provenance": {"commit": "abc"},
    }
    (workdir / "result.json").write_text(json.dumps({**result, **behavior}))
    (workdir / "metrics.jsonl").write_text('{"step": 50, "train/top1": 0.5, "train/loss": 1.5}\\n')
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Replace the repository by a directory in which main.py is `FAKE_PROGRAM`, and return it."""
    (tmp_path / "main.py").write_text(FAKE_PROGRAM)
    (tmp_path / "config.json").write_text(settings.to_json(settings.default()))
    (tmp_path / "behavior.json").write_text("{}")
    monkeypatch.setattr(run_program, "ROOT", tmp_path)
    return tmp_path


def set_behavior(root, **behavior_by_seed):
    (root / "behavior.json").write_text(json.dumps({name[-1]: value for name, value in behavior_by_seed.items()}))


def test_accuracy_trains_each_seed_and_returns_its_result(root):
    set_behavior(root, seed1={"test_tta": {"flip": {"top1": 0.95, "examples": 359}}})
    line = accuracy.measure(RESNET20, [TEN_EPOCHS], range(2), root / "runs")
    command = f"repeat --config={RESNET20} {TEN_EPOCHS} --seeds=0:2 --workdir={root}/runs"
    assert (root / "commands.txt").read_text().splitlines() == [command]
    assert (line["recipe"], line["overrides"]) == (RESNET20, [TEN_EPOCHS])
    assert line["settings"] == recipe_settings.as_json(settings.default())
    assert line["runs"] == [
        {
            "seed": seed,
            "top1": top1,
            "tta_top1": tta_top1,
            "examples": 359,
            "checkpoint_step": 600,
            "seconds": 9.0,
            "seconds_with_compilation": 10.0,
            "curves": {"train/top1": {"steps": [50], "values": [0.5]}},
            "provenance": {"commit": "abc"},
        }
        for seed, top1, tta_top1 in ((0, 0.9, None), (1, 0.91, 0.95))
    ]


def test_accuracy_trains_any_seeds(root):
    line = accuracy.measure(RESNET20, [], range(3, 5), root / "runs")
    assert [run["seed"] for run in line["runs"]] == [3, 4]


@pytest.mark.parametrize("exit_code", [1, 2, 75, 130])
def test_accuracy_stops_if_not_all_seeds_are_finished(root, capsys, exit_code):
    set_behavior(root, seed1={"exit_code": exit_code})
    with pytest.raises(SystemExit) as stop:
        accuracy.measure(RESNET20, [], range(3), root / "runs")
    assert stop.value.code == exit_code
    assert capsys.readouterr().err == "Not all runs are finished. Run the same command again to resume.\n"


def test_accuracy_refuses_runs_without_test_split(root, capsys):
    set_behavior(root, seed0={"test": None})
    with pytest.raises(SystemExit):
        accuracy.measure(RESNET20, [], range(2), root / "runs")
    assert "seed0 has no test accuracy" in capsys.readouterr().err


RUN_BENCHMARK = """
import pathlib, signal, sys
from benchmarks import accuracy, run_program
signal.signal(signal.SIGINT, signal.default_int_handler)  # The tests may run in the background, where it is ignored.
run_program.ROOT = pathlib.Path(sys.argv[1])
accuracy.measure("configs/digits.py", [], range(1), run_program.ROOT / "runs")
"""


@pytest.mark.parametrize("to_all", [True, False], ids=["ctrl_c", "sigterm"])
def test_signal_stops_the_run_and_the_benchmark(root, to_all):
    """A terminal sends Ctrl-C to both processes. SIGTERM, which only the benchmark receives here, is passed on."""
    set_behavior(root, seed0={"wait": True})
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_BENCHMARK, str(root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line == "The fake program waits.\n":
            break
    if to_all:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if to_all else 128 + signal.SIGTERM)
    assert "Not all runs are finished." in errors


def test_run_directories_are_named_by_recipe_and_overrides():
    directory = run_program.runs_directory("/r", accuracy._name(RESNET20), TEN_EPOCHS, "--config.freeze=('stem*',)")
    assert directory == pathlib.Path("/r/cifar10_resnet20/num_epochs=10/freeze=_stem_")


def test_recipe_is_named_with_or_without_its_directory():
    names = ("digits", "cifar10:resnet20", "configs/mnist.py:adam")
    assert [*map(recipe_settings.recipe_path, names)] == ["configs/digits.py", RESNET20, "configs/mnist.py:adam"]
