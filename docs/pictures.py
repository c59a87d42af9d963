"""Makes the pictures of what a run shows and leaves: of its report, and of the terminal while it trains.

    python docs/pictures.py --run=/tmp/run

From the report on the run directory come docs/report.png and docs/report_dark.png, its top by day and by night, and
docs/confusion_matrix.png and docs/reliability_diagram.png. docs/progress.png is what a terminal shows amid a training
on digits, which is started for it and then stopped. It takes Chromium (apt-get install chromium).
"""

import argparse
import contextlib
import html
import io
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

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

DOCS = pathlib.Path(__file__).parent
PROGRAM = DOCS.parent / "main.py"
WIDTH, HEIGHT = 1160, 976  # of the report's top, in pixels of the page
AROUND = 20  # a chart, in the same
SHARPNESS = 2  # pixels of the picture for one of the page
COLOURS = 128  # a palette makes the files a third as large
ROWS, COLUMNS = 16, 112  # of the terminal
DIGITS = ("--config=configs/digits.py", "--workdir=/tmp/digits")
STOPPED_AT = "\repoch 12/30  step "  # what the live line begins with when the picture is taken

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
    parser.add_argument("--run", required=True, help="the run directory, of a training that is done")
    run = parser.parse_args().run
    with chromium() as browser, tempfile.TemporaryDirectory() as directory:
        report = pathlib.Path(directory) / "report.html"
        subprocess.run([sys.executable, PROGRAM, "report", f"--workdir={run}", f"--to={report}"], check=True)
        for scheme, name in (("dark", "report_dark"), ("light", "report")):
            page = open_page(browser, scheme)
            page.goto(report.as_uri())
            save(name, page.screenshot())
        for chart, name in (("confusion1", "confusion_matrix"), ("reliability1", "reliability_diagram")):
            save(name, page.screenshot(full_page=True, clip=surroundings(page.locator(f"figure:has(#{chart})"))))
        page = open_page(browser, "dark")
        page.set_content(TERMINAL % html.escape("\n".join(training())))
        save("progress", page.locator("div").screenshot(omit_background=True))


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        sys.exit("error: there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser: Browser, scheme: str) -> Page:
    return browser.new_page(
        viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SHARPNESS, color_scheme=scheme
    )


def surroundings(element: Locator) -> dict[str, float]:
    """The place of an element on the page, and a little around it."""
    box = element.bounding_box()
    return {
        "x": box["x"] - AROUND,
        "y": box["y"] - AROUND,
        "width": box["width"] + 2 * AROUND,
        "height": box["height"] + 2 * AROUND,
    }


def save(name: str, picture: bytes) -> None:
    """Writes a PNG, with fewer colours than it had."""
    reduced = Image.open(io.BytesIO(picture)).quantize(COLOURS, Image.Quantize.FASTOCTREE)
    reduced.save(DOCS / f"{name}.png", optimize=True)
    print(f"docs/{name}.png, {(DOCS / f'{name}.png').stat().st_size / 1e3:.0f} kB")


def training() -> list[str]:
    """The lines that a terminal shows amid a training on digits."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
    with tempfile.TemporaryDirectory() as workdir:
        arguments = [DIGITS[0], f"--workdir={workdir}"]
        process = subprocess.Popen([sys.executable, PROGRAM, *arguments], cwd=PROGRAM.parent, stdout=theirs)
        os.close(theirs)
        seen = ""
        while STOPPED_AT not in seen:
            seen += os.read(ours, 65536).decode()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # It is how Linux tells that the other end is closed.
            while os.read(ours, 65536):
                pass
        process.wait()
    lines = [f"$ python main.py {' '.join(DIGITS)}", *map(shown, seen.split("\r\n"))]
    return [lines[0], *lines[1 - ROWS :]]


def shown(line: str) -> str:
    """What a terminal leaves of a line in which parts, each after a carriage return, are written over one another."""
    left = ""
    for part in line.split("\r"):
        left = part + left[len(part) :]
    return left.rstrip()


if __name__ == "__main__":
    main()
