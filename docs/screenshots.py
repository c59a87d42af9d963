"""Write the screenshots of the docs: a report and a terminal, or the charts of a benchmark.

    python docs/screenshots.py --run=/tmp/run
    python docs/screenshots.py --find_lr
    python docs/screenshots.py --federated
    python docs/screenshots.py --accuracy

The report on the run directory gives docs/report.png and docs/report_dark.png, its top in light and dark, and
docs/confusion_matrix.png and docs/reliability_diagram.png. docs/progress.png shows a terminal during training on
digits; the script starts that run and stops it. With --find_lr, the script writes docs/learning_rate_digits.png and
docs/learning_rate_cifar10.png. With --federated, it writes docs/federated_cifar10.png from the newest line of
`benchmarks.federated` in benchmarks/results.jsonl. With --accuracy, it writes docs/accuracy_RECIPE.png for each recipe
of whose runs `benchmarks.accuracy` recorded the curves. It needs Chromium (apt-get install chromium).
"""

import argparse
import contextlib
import html
import io
import json
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator

import plotly.graph_objects as go
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # The package need not be installed.

from benchmarks.tables import clients_of, join_seeds  # noqa: E402  See above.
from resnet_jax.report import chart_style, training_charts  # noqa: E402  See above.
from resnet_jax.training.metrics_writer import Curve  # noqa: E402  See above.

PROGRAM = DOCS.parent / "main.py"
RESULTS = DOCS.parent / "benchmarks" / "results.jsonl"
WIDTH, HEIGHT = 1160, 976  # of the top of the report, in CSS pixels
CHART_SIZE = {"width": 760, "height": 440}  # in CSS pixels
CHART_MARGIN = 20  # in CSS pixels
PIXEL_RATIO = 2  # image pixels per CSS pixel
COLORS = 128  # a palette makes the files a third as large
ROWS, COLUMNS = 16, 112  # of the terminal
DIGITS = ("--config=configs/digits.py", "--workdir=/tmp/digits")
STOP_AT = "\repoch 12/30  step "  # the beginning of the live line at which the run is stopped
RANGE_TESTS = {
    "learning_rate_digits": "configs/digits.py",
    "learning_rate_cifar10": "configs/cifar10.py:resnet20",
}
TERMINAL = """
<style>
  body { margin: 0; background: transparent }
  div { display: inline-block; border-radius: 9px; background: #16181c; color: #d6d9de; overflow: hidden }
  p { margin: 0; padding: 8px 14px; background: #24272d; color: #8b9099; font: 13px system-ui, sans-serif }
  pre { margin: 0; padding: 12px 16px 16px; font: 13px/1.5 ui-monospace, Menlo, "DejaVu Sans Mono", monospace }
</style>
<div><p>Terminal</p><pre>%s</pre></div>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="the directory of a finished run")
    parser.add_argument("--find_lr", action="store_true", help="write the charts of learning-rate range tests")
    parser.add_argument("--federated", action="store_true", help="write the curves of federated training on CIFAR-10")
    parser.add_argument("--accuracy", action="store_true", help="write the training curves of `benchmarks.accuracy`")
    arguments = parser.parse_args()
    if not any(vars(arguments).values()):
        parser.error("Choose --run, --find_lr, --federated or --accuracy.")
    if arguments.run:
        write_report(arguments.run)
    if arguments.find_lr:
        write_range_tests()
    if arguments.federated:
        write_federated()
    if arguments.accuracy:
        write_accuracy()


def write_report(run: str) -> None:
    """Write the screenshots of a report on a run, and of a terminal during training."""
    with chromium() as browser, tempfile.TemporaryDirectory() as directory:
        report = pathlib.Path(directory) / "report.html"
        subprocess.run([sys.executable, PROGRAM, "report", f"--workdir={run}", f"--to={report}"], check=True)
        for scheme, name in (("dark", "report_dark"), ("light", "report")):
            page = open_page(browser, scheme)
            page.goto(report.as_uri())
            save(name, page.screenshot())
        for chart, name in (("confusion1", "confusion_matrix"), ("reliability1", "reliability_diagram")):
            save(name, page.screenshot(full_page=True, clip=chart_box(page.locator(f"figure:has(#{chart})"))))
        page = open_page(browser, "dark")
        page.set_content(TERMINAL % html.escape("\n".join(training_output())))
        save("progress", page.locator("div").screenshot(omit_background=True))


def write_range_tests() -> None:
    """Write the charts of the range tests of `RANGE_TESTS`."""
    with chromium() as browser, tempfile.TemporaryDirectory() as directory:
        for name, recipe in RANGE_TESTS.items():
            chart = pathlib.Path(directory) / f"{name}.html"
            subprocess.run(
                [sys.executable, PROGRAM, "find_lr", f"--config={recipe}", f"--to={chart}"],
                cwd=PROGRAM.parent,
                check=True,
            )
            page = browser.new_page(viewport=CHART_SIZE, device_scale_factor=PIXEL_RATIO)
            page.goto(chart.as_uri())
            save(name, page.screenshot())


def write_federated() -> None:
    """Write the curves of the newest measurement of federated training."""
    runs = read_results("federated")[-1]["runs"]
    with chromium() as browser:
        save_chart(browser, "federated_cifar10", federated_chart(runs))


def write_accuracy() -> None:
    """Write a chart per recipe: the top-1 of its runs on training and validation examples while they trained."""
    recipes: dict[str, dict[str, dict[str, Curve]]] = {}  # curves by recipe, run and metric
    for line in join_seeds(read_results("accuracy")):
        for run in line["runs"]:
            curves = {metric: Curve(**curve) for metric, curve in run.get("curves", {}).items()}
            if curves:
                name = " ".join([f"seed {run['seed']}", *line["overrides"]])
                recipes.setdefault(line["recipe"], {})[name] = curves
    with chromium() as browser:
        for recipe, runs in recipes.items():
            name = recipe.removeprefix("configs/").replace(".py", "").replace(":", "_")
            save_chart(browser, f"accuracy_{name}", training_charts.top1(runs))


def read_results(benchmark: str) -> list[dict]:
    """Return the recorded lines of results of a benchmark, in the order in which they were recorded."""
    lines = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["benchmark"] == benchmark]


def federated_chart(runs: dict[str, dict]) -> go.Figure:
    """Return a chart of the validation top-1 after each round, with the worst decile of the clients dotted."""
    chart = chart_style.empty_chart(
        xaxis={"title_text": "round (without clients: epoch)", "rangemode": "tozero"},
        yaxis={"title_text": "validation top-1", "tickformat": ".0%", "rangemode": "tozero"},
    )
    for (variant, run), color in zip(runs.items(), chart_style.COLORS, strict=False):
        rounds = list(range(1, len(run["validation_top1"]) + 1))
        style = {"color": color, "width": 2}
        chart.add_scatter(x=rounds, y=run["validation_top1"], name=clients_of(variant), mode="lines", line=style)
        worst = {"color": color, "width": 1, "dash": "dot"}
        chart.add_scatter(x=rounds, y=run["worst_decile"], mode="lines", line=worst, showlegend=False)
    return chart


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        sys.exit("error: Chromium is not installed. Run: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser: Browser, scheme: str) -> Page:
    return browser.new_page(
        viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=PIXEL_RATIO, color_scheme=scheme
    )


def chart_box(chart: Locator) -> dict[str, float]:
    """Return the bounding box of a chart, with a margin."""
    box = chart.bounding_box()
    return {
        "x": box["x"] - CHART_MARGIN,
        "y": box["y"] - CHART_MARGIN,
        "width": box["width"] + 2 * CHART_MARGIN,
        "height": box["height"] + 2 * CHART_MARGIN,
    }


def save_chart(browser: Browser, name: str, chart: go.Figure) -> None:
    """Write a chart as a PNG file."""
    page = browser.new_page(viewport=CHART_SIZE, device_scale_factor=PIXEL_RATIO)
    page.set_content(chart.to_html(include_plotlyjs=True, default_height="95vh"))
    save(name, page.screenshot())


def save(name: str, screenshot: bytes) -> None:
    """Write a screenshot as a PNG file with a palette."""
    reduced = Image.open(io.BytesIO(screenshot)).quantize(COLORS, Image.Quantize.FASTOCTREE)
    reduced.save(DOCS / f"{name}.png", optimize=True)
    print(f"docs/{name}.png, {(DOCS / f'{name}.png').stat().st_size / 1e3:.0f} kB")


def training_output() -> list[str]:
    """Train on digits in a pseudo-terminal until the live line reaches `STOP_AT`, and return the visible lines."""
    reading_end, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (ROWS, COLUMNS))
    with tempfile.TemporaryDirectory() as workdir:
        arguments = [DIGITS[0], f"--workdir={workdir}"]
        process = subprocess.Popen([sys.executable, PROGRAM, *arguments], cwd=PROGRAM.parent, stdout=terminal)
        os.close(terminal)
        output = ""
        while STOP_AT not in output:
            output += os.read(reading_end, 65536).decode()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # On Linux, raised when the other end is closed.
            while os.read(reading_end, 65536):
                pass
        process.wait()
    lines = [f"$ python main.py {' '.join(DIGITS)}", *map(visible_text, output.split("\r\n"))]
    return [lines[0], *lines[1 - ROWS :]]


def visible_text(line: str) -> str:
    """Return what a terminal shows of a line in which each carriage return starts to overwrite it."""
    visible = ""
    for text in line.split("\r"):
        visible = text + visible[len(text) :]
    return visible.rstrip()


if __name__ == "__main__":
    main()
