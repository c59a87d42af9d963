"""Write the tables of the benchmarks, of README.md and of the docs from results.jsonl. No table is edited by hand.

python -m benchmarks.tables
"""

import json
import pathlib
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks import recipe_settings
from resnet_jax.evaluation.probe import RANDOM
from resnet_jax.models.variants import PAPER, VARIANTS
from resnet_jax.studies.statistics import spread
from resnet_jax.terminal import duration

HERE = pathlib.Path(__file__).parent
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Lines = Sequence[dict]
Format = Callable[[Lines], str]

# The reference for the accuracy of a recipe, if it is not the published accuracy of its model.
REFERENCES = {
    "configs/cifar10_short.py": "91.25 % (He et al. 2015, table 6)",
    "configs/cifar10_speedrun.py": "94.01 % with TTA, 2.59 s on an A100 (airbench94_muon.py, Jordan 2024)",
    "configs/cifar10_speedrun.py:96": "96.05 % with TTA, 46.3 s on an A100 (airbench96.py, Jordan 2024)",
}
TFDS_NAMES = {"CIFAR-10": "cifar10", "ImageNet-1k": "imagenet2012"}  # of the datasets in `VARIANTS`

PROBE_COLUMNS = (("top1", 1.0), ("knn", 1.0), ("top1", 0.01))  # of the table `pretraining`: metrics and fractions


def fill_tables(text: str, lines: Iterable[dict], formats: Mapping[str, Format]) -> str:
    """Return Markdown with its tables filled from these lines of results. Later lines replace earlier ones.

    Args:
      text: Markdown with a comment before and after each table.
      lines: lines of results of any benchmarks.
      formats: a function per table that formats the lines of the benchmark with the name of the table.
    """
    lines = list(lines)

    def fill(match: re.Match) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n{formats[name]([line for line in lines if line['benchmark'] == name])}\n\n{end}"

    return TABLE.sub(fill, text)


def train_step(lines: Lines) -> str:
    """Format the newest line of each case. Ratios compare turns of the same round, because the load changes."""
    cases = {(line["device"], line["network"], line["dtype"], line["batch_size"]): line for line in lines}
    rows = []
    for line in cases.values():
        seconds = {entry["contestant"]: entry["seconds"] for entry in line["figures"]}
        for entry in line["figures"]:
            rows.append(
                (
                    f"{line['network']}, {line['dtype']}, {line['batch_size']}",
                    entry["contestant"],
                    f"{entry['ms']:,.1f}",
                    f"{entry['images_per_second']:,.1f}",
                    f"{entry['tflops_per_second']:.3f}",
                    f"{entry['of_peak']:.0%}",
                    _speed_up(seconds.get("plain"), entry["seconds"]),
                    _speed_up(seconds.get("torch_eager"), entry["seconds"]),
                    _measured(line, f"{line['rounds']} rounds"),
                )
            )
    header = ("case", "step", "ms", "images/s", "TFLOP/s", "of peak", "x plain", "x PyTorch eager", "measured")
    return _markdown(header, rows, cases.values())


def start_up(lines: Lines) -> str:
    newest = _newest(lines)
    rows = [
        (
            entry["recipe"],
            f"{entry['first']:.1f}",
            f"{statistics.median(entry['later']):.1f}",
            len(entry["later"]),
            _measured(line),
        )
        for line in newest
        for entry in line["figures"]
    ]
    return _markdown(("recipe", "first start, s", "later starts, s", "n", "measured"), rows, newest)


def evaluation(lines: Lines) -> str:
    newest = _newest(lines)
    rows = [
        (
            entry["network"],
            f"{entry['ours']:,.0f}",
            f"{entry['torch_eager']:,.0f}" if entry["torch_eager"] else "-",
            f"{entry['state_mb']:,.1f}",
            f"{1e3 * entry['blocked']:,.0f}",
            f"{1e3 * entry['saved']:,.0f}",
            _measured(line, f"{line['rounds']} rounds"),
        )
        for line in newest
        for entry in line["figures"]
    ]
    header = ("model", "images/s", "PyTorch, images/s", "state, MB", "loop blocked, ms", "whole save, ms", "measured")
    return _markdown(header, rows, newest)


def exported(lines: Lines) -> str:
    newest = _newest(lines)
    contestants = ("predict", "stablehlo", "onnx", "int8", "torch_eager")
    rows = [
        (
            entry["network"],
            entry["batch_size"],
            *(f"{entry[name]:,.2f}" if entry[name] else "-" for name in contestants),
            _measured(line, f"{line['rounds']} rounds"),
        )
        for line in newest
        for entry in line["figures"]
    ]
    header = ("model", "batch", "predict", "StableHLO", "ONNX", "ONNX, int8", "PyTorch", "measured")
    return _markdown(header, rows, newest)


def loop(lines: Lines) -> str:
    """Format the medians over the measurements of each recipe, and the range of the fraction of other host work."""
    newest = _newest(lines)
    rows = []
    for line in newest:
        for entry in line["figures"]:
            measurements = entry["times"]
            values = {name: [measurement[name] for measurement in measurements] for name in measurements[0]}
            host = values["host"]
            rows.append(
                (
                    entry["recipe"],
                    f"{statistics.median(values['step_ms']):,.1f}",
                    f"{statistics.median(values['images_per_second']):,.1f}",
                    f"{statistics.median(values['utilization']):.0%}",
                    f"{statistics.median(values['input']):.1%}",
                    f"{statistics.median(host):.1%} ({min(host):.1%}-{max(host):.1%})",
                    _measured(line, f"{len(host)} times {values['rounds'][0]} rounds"),
                )
            )
    header = ("recipe", "step alone, ms", "images/s", "of peak", "waiting for input", "other host work", "measured")
    return _markdown(header, rows, newest)


def numerics(lines: Lines) -> str:
    """Format means over the seeds, from the newest line of each recipe. "loss minus untuned" compares equal seeds."""
    newest = {(line["device"], line["recipe"]): line for line in lines}.values()
    rows = []
    for line in newest:
        for tuning, runs in line["runs"].items():
            pairs = zip(runs, line["runs"]["untuned"], strict=True)
            differences = [run["loss"] - untuned["loss"] for run, untuned in pairs]
            rows.append(
                (
                    line["recipe"],
                    tuning,
                    _spread([run["loss"] for run in runs], ".4f"),
                    _spread(differences, "+.4f") if any(differences) else "none",
                    _spread([100 * run["top1"] for run in runs], ".2f"),
                    f"{runs[0]['examples']:,}",
                    len(runs),
                    _measured(line),
                )
            )
    header = ("recipe", "tuning", "loss", "loss minus untuned", "test top-1, %", "test examples", "seeds", "measured")
    return _markdown(header, rows, newest)


def compiled_step(lines: Lines) -> str:
    rows = []
    newest = _newest(lines)
    for line in newest:
        for entry in line["figures"]:
            reduced = [kind for kind in entry["collectives"] if kind["kind"] == "all-reduce"]
            rows.append(
                (
                    f"{entry['devices']} x {entry['device_kind']}",
                    f"{entry['model']}, {entry['dtype']}, {entry['batch_size']:,}",
                    sum(kind["count"] for kind in reduced),
                    f"{sum(kind['bytes'] for kind in reduced) / 1e6:,.1f}",
                    f"{entry['memory']['temporary'] / 1e6:,.0f}",
                    f"{entry['memory']['arguments'] / 1e6:,.0f}",
                    f"{entry['flops'] / 1e9:,.1f}",
                    _measured(line),
                )
            )
    header = ("devices", "case", "all-reduces", "reduced, MB", "temporary, MB", "arguments, MB", "GFLOP", "compiled")
    return _markdown(header, rows, newest)


def ablation(lines: Lines) -> str:
    """Format means over the seeds, from the newest line of each recipe and change.

    Differences compare equal seeds of the same line. The last column says where and when the last seed was trained.
    """
    newest = {(line["recipe"], change): line for line in lines for change in line["runs"]}
    rows = []
    for recipe, change in sorted(newest, key=lambda key: key[0]):
        line = newest[recipe, change]
        runs = line["runs"][change]
        top1 = [run["top1"] for run in runs]
        unchanged = [run["top1"] for run in line["runs"]["none"]]
        differences = [changed - baseline for changed, baseline in zip(top1, unchanged, strict=True)]
        difference = _interval(differences) if len(differences) > 1 else f"{100 * differences[0]:+.2f}"
        rows.append(
            (
                f"`{recipe}`",
                change,
                _accuracy(top1),
                difference if change != "none" else "-",
                _accuracy([run["tta_top1"] for run in runs]),
                duration(statistics.mean(run["seconds"] for run in runs)),
                _measured(runs[-1]["provenance"], f"{line['epochs']} epochs of {line['images']:,} images"),
            )
        )
    header = (
        *("recipe", "change", "validation top-1 (seeds)", "difference, points", "with TTA (seeds)", "time"),
        "measured",
    )
    return _markdown(header, rows, newest.values())


def accuracy(lines: Lines) -> str:
    """Format mean and standard deviation over the seeds, and where and when they were trained."""
    joined = join_seeds(lines)
    rows = []
    for line in joined:
        runs = line["runs"]
        provenances = [run["provenance"] for run in runs]
        times = _times_by(lambda provenance: f"{_place(provenance)}, JAX {provenance['jax']}", runs)
        changes = recipe_settings.changes_since(line)
        rows.append(
            (
                _recipe(line),
                _accuracy([run["top1"] for run in runs]),
                _tta_accuracy(line) or "-",
                f"{runs[0]['examples']:,}",
                _reference(line),
                "; ".join(times.values()),
                "; ".join(times),
                "; ".join(dict.fromkeys(f"`{provenance['commit']}`" for provenance in provenances)),
                max(provenance["date"] for provenance in provenances)[:10],
                f"stale: {changes}" if changes else "unchanged",
            )
        )
    header = (
        *("recipe", "test top-1 ± std (seeds)", "with TTA (seeds)", "test examples", "reference", "time per seed"),
        *("hardware", "commit", "date", "recipe since then"),
    )
    return _markdown(header, rows, joined)


def accuracy_summary(lines: Lines) -> str:
    """Format the most important columns of `accuracy`. Metrics with test-time augmentation follow the single view."""
    rows = []
    for line in join_seeds(lines):
        tta = _tta_accuracy(line)
        times = _times_by(_place, line["runs"])
        rows.append(
            (
                _recipe(line),
                _accuracy([run["top1"] for run in line["runs"]])
                + (f"; with TTA {tta}" if tta else "")
                + (" (stale)" if recipe_settings.changes_since(line) else ""),
                _reference(line),
                "; ".join(times.values()),
                "; ".join(times),
            )
        )
    return _markdown(("recipe", "test top-1 ± std (seeds)", "reference", "time per seed", "hardware"), rows, ())


def imbalance(lines: Lines) -> str:
    """Format the newest line: each setting that balances classes, and its difference from none of them by seed."""
    newest = lines[-1:]
    rows = []
    for line in newest:
        for setting, runs in line["runs"].items():
            gains = [run["macro_f1"] - plain["macro_f1"] for run, plain in zip(runs, line["runs"]["none"], strict=True)]
            rows.append(
                (
                    f"`{setting}`" if setting != "none" else setting,
                    *(_accuracy([run[metric] for run in runs]) for metric in ("macro_f1", "rare_recall", "top1")),
                    "-" if setting == "none" else _interval(gains),
                    _measured(line, f"{line['epochs']} epochs"),
                )
            )
    header = ("setting", "macro-F1", "recall of the rare classes", "top-1", "gain in macro-F1, points", "measured")
    return _markdown(header, rows, newest)


def learning_rate(lines: Lines) -> str:
    """Format the newest line of each command."""
    newest = list({line["command"]: line for line in lines}.values())
    rows = []
    for line in newest:
        low, high = line["suggested"]
        top1 = line["top1"]
        gains = [suggested - original for suggested, original in zip(top1["find_lr"], top1["recipe"], strict=True)]
        rows.append(
            (
                _recipe(line),
                f"{low:.2g} to {high:.2g}",
                f"{line['rates']['find_lr']:.2g}: {_accuracy(top1['find_lr'])}",
                f"{line['rates']['recipe']:.2g}: {_accuracy(top1['recipe'])}",
                _interval(gains),
                _measured(line),
            )
        )
    header = (
        *("recipe", "suggested range", "its upper end: validation top-1 (seeds)", "the recipe's rate"),
        *("difference, points", "measured"),
    )
    return _markdown(header, rows, newest)


def early_stopping(lines: Lines) -> str:
    """Format the newest line: the steps and the accuracy with each patience."""
    newest = lines[-1:]
    rows = [
        (
            "unset" if patience == "None" else patience,
            f"{_spread([run['steps'] for run in runs], '.0f')} ({len(runs)})",
            _accuracy([run["top1"] for run in runs]),
            _measured(line),
        )
        for line in newest
        for patience, runs in line["runs"].items()
    ]
    return _markdown(("`early_stopping.patience`", "steps", "test top-1 (seeds)", "measured"), rows, newest)


def multi_label(lines: Lines) -> str:
    """Format the newest line: the metrics of images with any number of labels."""
    newest = lines[-1:]
    rows = [
        (
            *(_accuracy([run[metric] for run in line["runs"]]) for metric in ("map", "f1")),
            f"{line['images']['test']:,}",
            _measured(line, f"{line['epochs']} epochs of {line['images']['train']:,} images"),
        )
        for line in newest
    ]
    return _markdown(("test mAP (seeds)", "macro-F1", "test images", "measured"), rows, newest)


def pretraining(lines: Lines) -> str:
    """Format the newest line of each command: features, with all and with few labels, and fine-tuning with few."""
    newest = list({line["command"]: line for line in lines}.values())
    rows = []
    for line in newest:
        measured = _measured(line, f"{line['epochs']} epochs, batch size {line['batch_size']}")
        for title, start in ((line["method"], "pretrained"), ("not pre-trained", "scratch")):
            probed = (_probed(line["runs"], start == "scratch", *column) for column in PROBE_COLUMNS)
            few = _accuracy([run["few_labels"][start] for run in line["runs"]])
            rows.append((f"{title}, {line['model']}", *probed, few, measured))
    header = (
        *("features", "linear, all labels", "kNN, all labels", "linear, 1 % of the labels"),
        *("training with 1 % of the labels", "measured"),
    )
    return _markdown(header, rows, newest)


def federated(lines: Lines) -> str:
    """Format the newest line of each command: the accuracies of clients with more and more skewed classes."""
    newest = list({line["command"]: line for line in lines}.values())
    rows = []
    for line in newest:
        measured = _measured(line, f"{line['model']}, {line['clients']} clients, {line['rounds']} rounds")
        for variant, run in line["runs"].items():
            rounds = len(run["validation_top1"])
            at = (rounds // 4, rounds // 2, rounds)
            top1 = [f"{run['validation_top1'][max(number, 1) - 1]:.2%}" for number in at]
            worst = f"{run['worst_decile'][-1]:.2%}" if run["worst_decile"] else "-"
            seconds = f"{run['seconds'] / rounds:.0f} s"
            rows.append((clients_of(variant), *top1, worst, f"{run['test_top1']:.2%}", seconds, measured))
    header = (
        *(
            "clients",
            "validation top-1 after a quarter of the rounds (rounded down)",
            "half",
            "all",
            "worst decile of clients",
        ),
        *("test top-1, best round on validation", "time per round", "measured"),
    )
    return _markdown(header, rows, newest)


def clients_of(variant: str) -> str:
    """Return what the clients of a variant of `configs/federated_cifar10.py` have in common."""
    return {"central": "no clients", "iid": "equal clients"}.get(variant, f"alpha = {variant}")


TABLES: dict[str, Format] = {
    format_table.__name__: format_table
    for format_table in (
        *(accuracy, ablation, train_step, loop, numerics, start_up, evaluation, exported, compiled_step),
        *(imbalance, learning_rate, early_stopping, multi_label, pretraining, federated),
    )
}
PAGES: dict[pathlib.Path, Mapping[str, Format]] = {
    HERE / "README.md": TABLES,
    HERE.parent / "README.md": {"accuracy": accuracy_summary},
    HERE.parent / "docs" / "federated.md": TABLES,
    HERE.parent / "docs" / "imbalance.md": TABLES,
    HERE.parent / "docs" / "learning_rate.md": TABLES,
    HERE.parent / "docs" / "pretraining.md": TABLES,
    HERE.parent / "docs" / "studies.md": TABLES,
    HERE.parent / "docs" / "your_own_images.md": TABLES,
}


def join_seeds(lines: Lines) -> Lines:
    """Join the lines of `accuracy` with the same recipe, overrides and kind of device, which may hold different seeds.

    Of a seed that several lines hold, the newest run counts. Lines with other settings than the newest one are left
    out, because the recipe has changed since. CPUs of different models are joined, because only their rounding differs.
    """
    groups: dict[tuple, list[dict]] = {}
    for line in lines:
        key = (line["recipe"], *line["overrides"], line["runs"][0]["provenance"]["backend"])
        groups.setdefault(key, []).append(line)
    joined = []
    for group in groups.values():
        newest = group[-1]
        runs = {}  # by seed: the run, and the command that recorded it
        for line in group:
            if not recipe_settings.differences(line["settings"], newest["settings"]):
                runs |= {run["seed"]: (run, line["command"]) for run in line["runs"]}
        runs = dict(sorted(runs.items()))
        commands = dict.fromkeys(command for _, command in runs.values())  # `_markdown` adds the outer backquotes.
        joined.append({**newest, "runs": [run for run, _ in runs.values()], "command": "`, `".join(commands)})
    return joined


def _probed(runs: Sequence[dict], is_random: bool, metric: str, fraction: float) -> str:
    """Format what `probe` found for the features of pre-trained or of random weights."""
    return _accuracy(
        [
            result[metric]["value"]
            for run in runs
            for result in run["probe"]
            if (result["features"] == RANDOM) == is_random and result["fraction"] == fraction
        ]
    )


def _recipe(line: dict) -> str:
    return f"`{' '.join([line['recipe'], *line['overrides']])}`"


def _accuracy(fractions: Sequence[float]) -> str:
    """Format accuracies in [0, 1], one per seed: mean, standard deviation and their number."""
    percent = [100 * fraction for fraction in fractions]
    mean = _spread(percent, ".2f") if len(percent) > 1 else f"{percent[0]:.2f}"
    return f"{mean} % ({len(percent)})"


def _tta_accuracy(line: dict) -> str:
    """Format the accuracies with test-time augmentation, and its name; "" if the runs have none."""
    fractions = [run["tta_top1"] for run in line["runs"]]
    return "" if None in fractions else f"{_accuracy(fractions)}, {line['settings']['tta']}"


def _reference(line: dict) -> str:
    """Format what others report for the recipe, or for its model on the same dataset; "-" if we know of nothing."""
    if line["recipe"] in REFERENCES:
        return REFERENCES[line["recipe"]]
    variant = VARIANTS.get(line["settings"]["model.name"])
    if not variant or not variant.top1 or TFDS_NAMES[variant.dataset] != line["settings"]["dataset.name"]:
        return "-"
    authors_and_year = variant.paper.partition(",")[0]
    return f"{100 * variant.top1:.2f} % ({variant.top1_source.replace(PAPER, authors_and_year)})"


def _times_by(place: Callable[[dict], str], runs: Sequence[dict]) -> dict[str, str]:
    """Format the mean time of the runs at each place, which `place` derives from the provenance of a run."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        seconds.setdefault(place(run["provenance"]), []).append(run["seconds_with_compilation"])
    return {name: duration(statistics.mean(times)) for name, times in seconds.items()}


def _speed_up(theirs: Sequence[float] | None, ours: Sequence[float]) -> str:
    """Format how many times faster `ours` is than `theirs`: the median of the ratios by round, and their range."""
    if theirs is None:
        return "-"
    ratios = sorted(their_seconds / our_seconds for their_seconds, our_seconds in zip(theirs, ours, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def _spread(values: Sequence[float], form: str) -> str:
    """Format mean and standard deviation of a sample, in a format such as "+.4f"."""
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form.lstrip('+')}}"


def _interval(differences: Sequence[float]) -> str:
    """Format the mean of differences in [-1, 1] in percentage points, with its 95 % confidence interval."""
    result = spread([100 * difference for difference in differences])
    return f"{result.mean:+.2f} ({result.low:+.2f} to {result.high:+.2f})"


def _newest(lines: Lines) -> Lines:
    """Return the newest line of each kind of device."""
    return list({line["device"]: line for line in lines}.values())


def _measured(line: dict, how: str = "") -> str:
    """Format where, how and when a line of results was measured."""
    parts = (_place(line), f"JAX {line['jax']}", how, f"`{line['commit']}`", line["date"][:10])
    return ", ".join(part for part in parts if part)


def _place(provenance: dict) -> str:
    """Format the hardware: the cores of a CPU, or the kind of an accelerator."""
    if provenance["backend"] == "cpu":
        return f"{provenance['cpu_count']} cores of {provenance['machine']}"
    return provenance["device"]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[object]], made_of: Iterable[dict]) -> str:
    """Format a table, and below it the commands that recorded its lines of results.

    Args:
      header: the titles of the columns.
      rows: the cells.
      made_of: the lines of results.
    """
    table = "\n".join(f"| {' | '.join(map(str, row))} |" for row in [header, ["---"] * len(header), *rows])
    commands = dict.fromkeys(f"`{line['command']}`" for line in made_of)
    return f"{table}\n\nMade by {', '.join(commands)}." if commands else table


def main() -> None:
    lines = [json.loads(line) for line in (HERE / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    for page, formats in PAGES.items():
        page.write_text(fill_tables(page.read_text(encoding="utf-8"), lines, formats), encoding="utf-8")


if __name__ == "__main__":
    main()
