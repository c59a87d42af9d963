"""The page in a real browser."""

import pathlib
import shutil

import pytest

from resnet_jax.report.page import render
from tests.report.conftest import made_up_run, of_runs
from tests.report.test_page import HOSTILE

pytestmark = pytest.mark.slow

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """Two runs, whose classes have the worst of names."""
    classes = [*HOSTILE, *"abcdef"]
    runs = [made_up_run(classes, name=name, seed=seed) for seed, name in enumerate(HOSTILE[:2])]
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_bytes(render(of_runs(classes, *runs)).encode(errors="replace"))
    return file


@pytest.fixture
def shown(browser, place):
    """A function that opens the page in a window as it is told; it must ask for nothing and complain of nothing."""
    asked, said, contexts = [], [], []

    def show(page_at=place, **window):
        contexts.append(browser.new_context(**{"viewport": WIDE, **window}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
        page.goto(page_at.as_uri())
        page.wait_for_selector("#confusion1 .nsewdrag")
        return page

    yield show
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def point_at(page, chart, x, y):
    """Moves the mouse to a place of a chart, in shares of its width and height, and tells what is shown there."""
    area = page.locator(f"#{chart} .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    area.hover(position={"x": x * box["width"], "y": y * box["height"]})
    label = page.locator(f"#{chart} .hoverlayer text").first
    label.wait_for()
    return page.locator(f"#{chart} .hoverlayer").text_content()


def test_curves_tell_their_values_and_matrices_their_classes(shown):
    page = shown()
    label = point_at(page, "loss", 1, 0.5)
    assert "step 1,000" in label and "0.02882" in label and HOSTILE[0] in label
    label = point_at(page, "confusion1", 0.15, 0.05)
    assert f"is {HOSTILE[0]}" in label and f"taken for {HOSTILE[1]}" in label
    assert "accuracy" in point_at(page, "reliability1", 0.9, 0.9)


def test_tables_sort_by_a_click_and_by_the_keyboard(shown):
    page = shown()
    table = page.locator("table.sortable").nth(1)  # the classes of the first run
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


def test_it_is_dark_where_one_wants_it_dark(shown):
    def colours(page):
        return page.evaluate(
            """() => [document.body, ...document.querySelectorAll("#loss .xtick text, #loss .legendtext")].map(
                 (element) => getComputedStyle(element)[element === document.body ? "backgroundColor" : "fill"])"""
        )

    page = shown()
    light = colours(page)
    assert len(light) > 3 and light[0] == "rgb(253, 253, 252)"
    assert not set(light) & set(colours(shown(color_scheme="dark")))
    page.emulate_media(color_scheme="dark")  # It changes while the page is open.
    assert colours(page)[0] == "rgb(20, 21, 24)"


@pytest.mark.parametrize("window", [{"viewport": PHONE, "has_touch": True}, {"viewport": WIDE}], ids=["phone", "wide"])
def test_nothing_is_wider_than_the_window(shown, window):
    page = shown(**window)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('.main-svg')].every((one) => one.clientWidth <= innerWidth)")


def test_charts_take_the_width_of_the_window(shown):
    page, drawing = shown(), "#loss .main-svg >> nth=0"
    assert page.locator(drawing).bounding_box()["width"] > 400
    page.set_viewport_size(PHONE)
    page.wait_for_selector(f"{drawing} >> xpath=self::*[@width < 390]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_prints_in_a_moment_whatever_it_holds(shown, tmp_path):
    """Charts are scaled to their columns; the tables of a thousand classes do not make a file of many megabytes."""
    classes = [f"class {number}" for number in range(1000)]
    (tmp_path / "report.html").write_text(render(of_runs(classes, made_up_run(classes, size=5000))))
    page = shown(tmp_path / "report.html")
    assert len(page.pdf(print_background=True)) < 2e6
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    figure, drawing = page.locator("figure").first, page.locator("#loss .main-svg").first
    assert drawing.bounding_box()["width"] <= figure.bounding_box()["width"] + 1
