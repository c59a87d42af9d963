"""Write the tables of benchmarks/README.md from the newest lines of results.jsonl. No table is edited by hand.

python -m benchmarks.tables
"""

import json
import pathlib
import re
import statistics
from collections.abc import Callable, Iterable, Sequence

HERE = pathlib.Path(__file__).parent
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Lines = Sequence[dict]


def fill_tables(text: str, lines: Iterable[dict]) -> str:
    """Return Markdown with its tables filled from these lines of results. Later lines replace earlier ones."""
    lines = list(lines)

    def fill(match: re.Match) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n{TABLES[name]([line for line in lines if line['benchmark'] == name])}\n\n{end}"

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
    rows, newest = [], _newest(lines)
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


TABLES: dict[str, Callable[[Lines], str]] = {
    format_table.__name__: format_table
    for format_table in (train_step, loop, numerics, start_up, evaluation, compiled_step)
}


def _speed_up(theirs: Sequence[float] | None, ours: Sequence[float]) -> str:
    """Format how many times faster `ours` is than `theirs`: the median of the ratios by round, and their range."""
    if theirs is None:
        return "-"
    ratios = sorted(their_seconds / our_seconds for their_seconds, our_seconds in zip(theirs, ours, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def _spread(values: Sequence[float], form: str) -> str:
    """Format mean and standard deviation of a sample, in a format such as "+.4f"."""
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form.lstrip('+')}}"


def _newest(lines: Lines) -> Lines:
    """Return the newest line of each kind of device."""
    return list({line["device"]: line for line in lines}.values())


def _measured(line: dict, how: str = "") -> str:
    """Format where, how and when a line of results was measured."""
    place = f"{line['cpu_count']} cores of {line['machine']}" if line["backend"] == "cpu" else line["device"]
    parts = (place, f"JAX {line['jax']}", how, f"`{line['commit']}`", line["date"][:10])
    return ", ".join(part for part in parts if part)


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
    readme, lines = HERE / "README.md", (HERE / "results.jsonl").read_text(encoding="utf-8").splitlines()
    readme.write_text(fill_tables(readme.read_text(encoding="utf-8"), map(json.loads, lines)), encoding="utf-8")


if __name__ == "__main__":
    main()
