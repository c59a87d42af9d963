"""Writes the tables of benchmarks/README.md anew, from the newest lines of results.jsonl: no figure there is by hand.

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


def filled(text: str, lines: Iterable[dict]) -> str:
    """Markdown with its tables made of these lines of results, of which later ones take the place of earlier ones."""
    lines = list(lines)

    def fill(place: re.Match) -> str:
        begin, name, end = place.groups()
        return f"{begin}\n{TABLES[name]([line for line in lines if line['benchmark'] == name])}\n\n{end}"

    return TABLE.sub(fill, text)


def train_step(lines: Lines) -> str:
    """The newest line of each case; comparisons are of turns in the same round, for the machine changes."""
    cases = {(line["device"], line["network"], line["dtype"], line["batch_size"]): line for line in lines}
    rows = []
    for line in cases.values():
        seconds = {of["contestant"]: of["seconds"] for of in line["figures"]}
        for of in line["figures"]:
            rows.append(
                (
                    f"{line['network']}, {line['dtype']}, {line['batch_size']}",
                    of["contestant"],
                    f"{of['ms']:,.1f}",
                    f"{of['images_per_second']:,.1f}",
                    f"{of['tflops_per_second']:.3f}",
                    f"{of['of_peak']:.0%}",
                    _times(seconds.get("plain"), of["seconds"]),
                    _times(seconds.get("torch_eager"), of["seconds"]),
                    _measured(line, f"{line['rounds']} rounds"),
                )
            )
    header = ("case", "step", "ms", "images/s", "TFLOP/s", "of peak", "x plain", "x PyTorch eager", "measured")
    return _markdown(header, rows, cases.values())


def start_up(lines: Lines) -> str:
    newest = _newest(lines)
    rows = [
        (of["recipe"], f"{of['first']:.1f}", f"{statistics.median(of['later']):.1f}", len(of["later"]), _measured(line))
        for line in newest
        for of in line["figures"]
    ]
    return _markdown(("recipe", "first start, s", "later ones, s", "n", "measured"), rows, newest)


def evaluation(lines: Lines) -> str:
    newest = _newest(lines)
    rows = [
        (
            of["network"],
            f"{of['ours']:,.0f}",
            f"{of['torch_eager']:,.0f}" if of["torch_eager"] else "-",
            f"{of['state_mb']:,.1f}",
            f"{1e3 * of['blocked']:,.0f}",
            f"{1e3 * of['saved']:,.0f}",
            _measured(line, f"{line['rounds']} rounds"),
        )
        for line in newest
        for of in line["figures"]
    ]
    header = ("network", "images/s", "PyTorch, images/s", "state, MB", "a save blocks, ms", "in all, ms", "measured")
    return _markdown(header, rows, newest)


def loop(lines: Lines) -> str:
    """Medians of the times that a recipe was measured; of the host's share the least and the most too."""
    newest = _newest(lines)
    rows = []
    for line in newest:
        for of in line["figures"]:
            figures = {name: [time[name] for time in of["times"]] for name in of["times"][0]}
            host = figures["host"]
            rows.append(
                (
                    of["recipe"],
                    f"{statistics.median(figures['step_ms']):,.1f}",
                    f"{statistics.median(figures['images_per_second']):,.1f}",
                    f"{statistics.median(figures['utilization']):.0%}",
                    f"{statistics.median(figures['input']):.1%}",
                    f"{statistics.median(host):.1%} ({min(host):.1%}-{max(host):.1%})",
                    _measured(line, f"{len(host)} times {figures['rounds'][0]} rounds"),
                )
            )
    header = ("recipe", "step alone, ms", "images/s", "of peak", "waits for input", "host besides", "measured")
    return _markdown(header, rows, newest)


def numerics(lines: Lines) -> str:
    """The newest line of each recipe: means over seeds; the fourth column is of runs of the same seed."""
    newest = {(line["device"], line["recipe"]): line for line in lines}.values()
    rows = []
    for line in newest:
        for tuning, runs in line["runs"].items():
            moved = [run["loss"] - other["loss"] for run, other in zip(runs, line["runs"]["untuned"], strict=True)]
            rows.append(
                (
                    line["recipe"],
                    tuning,
                    _spread([run["loss"] for run in runs], ".4f"),
                    _spread(moved, "+.4f") if any(moved) else "none",
                    _spread([100 * run["top1"] for run in runs], ".2f"),
                    f"{runs[0]['examples']:,}",
                    len(runs),
                    _measured(line),
                )
            )
    header = ("recipe", "tuning", "loss", "less untuned", "test top-1, %", "test examples", "seeds", "measured")
    return _markdown(header, rows, newest)


def compiled_step(lines: Lines) -> str:
    rows, newest = [], _newest(lines)
    for line in newest:
        for of in line["figures"]:
            reduced = [kind for kind in of["collectives"] if kind["kind"] == "all-reduce"]
            rows.append(
                (
                    f"{of['devices']} x {of['device_kind']}",
                    f"{of['model']}, {of['dtype']}, {of['batch_size']:,}",
                    sum(kind["count"] for kind in reduced),
                    f"{sum(kind['bytes'] for kind in reduced) / 1e6:,.1f}",
                    f"{of['memory']['temporary'] / 1e6:,.0f}",
                    f"{of['memory']['arguments'] / 1e6:,.0f}",
                    f"{of['flops'] / 1e9:,.1f}",
                    _measured(line),
                )
            )
    header = ("devices", "case", "all-reduces", "their MB", "temporary MB", "arguments, MB", "GFLOP", "compiled")
    return _markdown(header, rows, newest)


TABLES: dict[str, Callable[[Lines], str]] = {
    made.__name__: made for made in (train_step, loop, numerics, start_up, evaluation, compiled_step)
}


def _times(theirs: Sequence[float] | None, ours: Sequence[float]) -> str:
    """How many times quicker ours are: the median over rounds, and the least and the most."""
    if theirs is None:
        return "-"
    ratios = sorted(other / own for other, own in zip(theirs, ours, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def _spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation of a sample, in a form such as "+.4f"."""
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form.lstrip('+')}}"


def _newest(lines: Lines) -> Lines:
    """The newest line of each kind of device."""
    return list({line["device"]: line for line in lines}.values())


def _measured(line: dict, how: str = "") -> str:
    place = f"{line['cpu_count']} cores of {line['machine']}" if line["backend"] == "cpu" else line["device"]
    parts = (place, f"JAX {line['jax']}", how, f"`{line['commit']}`", line["date"][:10])
    return ", ".join(part for part in parts if part)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[object]], made_of: Iterable[dict]) -> str:
    """A table, and below it by which commands its lines of results were made."""
    table = "\n".join(f"| {' | '.join(map(str, row))} |" for row in [header, ["---"] * len(header), *rows])
    commands = dict.fromkeys(f"`{line['command']}`" for line in made_of)
    return f"{table}\n\nMade by {', '.join(commands)}." if commands else table


def main() -> None:
    readme, lines = HERE / "README.md", (HERE / "results.jsonl").read_text().splitlines()
    readme.write_text(filled(readme.read_text(), map(json.loads, lines)))


if __name__ == "__main__":
    main()
