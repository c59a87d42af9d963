"""The report page in a real browser."""

import pathlib
import shutil

import pytest

from resnet_jax.report.page import render
from tests.report.conftest import random_run, report_data
from tests.report.test_page import HOSTILE

pytestmark = pytest.mark.slow

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("Chromium is not installed. Install it with apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory) -> pathlib.Path:
    """A page on two runs whose names and classes try to break out of the HTML."""
    classes = [*HOSTILE, *"abcdef"]
    runs = [random_run(classes, name=name, seed=seed) for seed, name in enumerate(HOSTILE[:2])]
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_bytes(render(report_data(classes, *runs)).encode(errors="replace"))
    return file


@pytest.fixture
def open_page(browser, hostile_page):
    """Return a function that opens a page, and check that the page requests nothing and logs nothing to the console."""
    requests, messages, contexts = [], [], []

    def open_page(path=hostile_page, **window):
        contexts.append(browser.new_context(**{"viewport": WIDE, **window}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: messages.append(f"a dialog: {dialog.message}"))
        page.goto(path.as_uri())
        page.wait_for_selector("#confusion1 .nsewdrag")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def hover(page, chart, x, y):
    """Move the mouse to a point of a chart, in fractions of its width and height, and return the hover text."""
    area = page.locator(f"#{chart} .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    area.hover(position={"x": x * box["width"], "y": y * box["height"]})
    label = page.locator(f"#{chart} .hoverlayer text").first
    label.wait_for()
    return page.locator(f"#{chart} .hoverlayer").text_content()


def test_charts_show_values_on_hover(open_page):
    page = open_page()
    label = hover(page, "loss", 1, 0.5)
    assert "step 1,000" in label and "0.02882" in label and HOSTILE[0] in label
    label = hover(page, "confusion1", 0.15, 0.05)
    assert f"class {HOSTILE[0]}" in label and f"predicted as {HOSTILE[1]}" in label
    assert "accuracy" in hover(page, "reliability1", 0.9, 0.9)


def test_tables_sort_by_mouse_and_keyboard(open_page):
    page = open_page()
    table = page.locator("table.sortable").nth(1)  # the metrics per class of the first run
    heading = table.locator("th", has_text="recall")

    def recalls():
        shares = table.locator("tbody tr td:nth-child(3)").all_text_contents()
        return [float(share.replace("%", "")) for share in shares]

    before = recalls()
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending" and recalls() == sorted(before) != before
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending" and recalls() == sorted(before, reverse=True)
    names = table.locator("tbody th")
    table.locator("th", has_text="class").get_by_role("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert names.last.text_content() == "f"


def test_report_follows_prefers_color_scheme(open_page):
    def colors(page):
        return page.evaluate(
            """() => [document.body, ...document.querySelectorAll("#loss .xtick text, #loss .legendtext")].map(
                 (element) => getComputedStyle(element)[element === document.body ? "backgroundColor" : "fill"])"""
        )

    page = open_page()
    light = colors(page)
    assert len(light) > 3 and light[0] == "rgb(253, 253, 252)"
    assert not set(light) & set(colors(open_page(color_scheme="dark")))
    page.emulate_media(color_scheme="dark")  # The theme changes while the page is open.
    assert colors(page)[0] == "rgb(20, 21, 24)"


@pytest.mark.parametrize("window", [{"viewport": PHONE, "has_touch": True}, {"viewport": WIDE}], ids=["phone", "wide"])
def test_page_fits_the_width_of_the_window(open_page, window):
    page = open_page(**window)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(
        "[...document.querySelectorAll('.main-svg')].every((drawing) => drawing.clientWidth <= innerWidth)"
    )


def test_charts_follow_the_width_of_the_window(open_page):
    page, drawing = open_page(), "#loss .main-svg >> nth=0"
    assert page.locator(drawing).bounding_box()["width"] > 400
    page.set_viewport_size(PHONE)
    page.wait_for_selector(f"{drawing} >> xpath=self::*[@width < 390]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_large_page_prints_to_a_small_file(open_page, tmp_path):
    """Charts are scaled to their columns, and the tables of a thousand classes do not produce many megabytes."""
    classes = [f"class {number}" for number in range(1000)]
    (tmp_path / "report.html").write_text(render(report_data(classes, random_run(classes, size=5000))))
    page = open_page(tmp_path / "report.html")
    assert len(page.pdf(print_background=True)) < 2e6
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    figure, drawing = page.locator("figure").first, page.locator("#loss .main-svg").first
    assert drawing.bounding_box()["width"] <= figure.bounding_box()["width"] + 1
