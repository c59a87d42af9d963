import dataclasses
import html.parser
import re

import pytest

from resnet_jax.report.page import render
from tests.report.conftest import RESULT, random_run, report_data

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "<a href='https://example.com'>here</a>",
    "{{ 7 * 7 }} %{x} \udcff",
)


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its text. Raises if they are not properly nested."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(content)
        self.close()
        assert not self._open
        self.text = " ".join(self.text.split())  # Collapse white space.

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data + " "

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(*arguments, **settings):
    return Page(render(report_data(*arguments, **settings)))


def charts(page):
    return [attributes["id"] for attributes in page.all("div") if "plotly-graph-div" in attributes.get("class", "")]


@pytest.fixture(scope="module")
def ordinary():
    run = random_run("abcd")
    return run, page_of("abcd", run)


def test_page_contains_everything_that_it_shows(ordinary):
    _, page = ordinary
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            assert re.match(r"data:image/|#|$", attributes.get(name, ""))
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "http" not in policy
    assert not page.all("link")


def test_page_shows_metrics_and_provenance(ordinary):
    run, page = ordinary
    means, (low, high) = run.metrics.means, run.metrics.top1_interval
    for text in (
        f"Top-1 {100 * means.top1:.2f} % {100 * low:.2f} % to {100 * high:.2f} %",
        f"Loss {means.loss:.4f}",
        f"ECE {100 * run.metrics.ece:.2f} %",
        "Examples 600 test",
        "12,345 parameters",
        "Python 3.11.7, JAX 0.10.2",
        "Commit 14aec56",
        "Time 1 min 40 s",
    ):
        assert text in page.text
    assert charts(page) == ["loss", "top1", "spent", "reliability1", "confusion1"]


def test_page_shows_every_class_and_image(ordinary):
    run, page = ordinary
    rows = [heading for heading in page.all("th") if heading.get("scope") == "row"]
    assert len(rows) >= 4 + len(run.metrics.confused)
    assert len(page.all("img")) == 2 * (16 + 8 + 8 + 8)  # images and overlays
    assert page.text.count("Beside each image is Grad-CAM for the predicted class") == 1
    assert all(
        image["src"].startswith("data:image/png;base64,") and image["class"] == "small" for image in page.all("img")
    )


def test_page_of_a_model_without_overlays_does_not_mention_them(ordinary):
    run, _ = ordinary
    galleries = [
        dataclasses.replace(
            gallery, images=tuple(dataclasses.replace(image, overlay_uri=None) for image in gallery.images)
        )
        for gallery in run.galleries
    ]
    page = page_of("abcd", dataclasses.replace(run, galleries=galleries))
    assert len(page.all("img")) == 16 + 8 + 8 + 8
    assert "Grad-CAM" not in page.text


def test_names_are_escaped_wherever_they_occur(ordinary):
    run = random_run(HOSTILE, name=HOSTILE[1])
    other = random_run(HOSTILE, name=HOSTILE[0], seed=1)
    content = render(report_data(HOSTILE, run, other))
    page = Page(content.encode(errors="replace").decode())
    harmless = page_of("abcd", random_run("abcd"), random_run("abcd", name="other", seed=1))
    assert len(page.all("script")) == len(harmless.all("script"))
    assert all(image["src"].startswith("data:image/png") for image in page.all("img"))
    assert {link["href"] for link in page.all("a")} == {"#run1", "#run2"}
    for name in HOSTILE:
        assert name.replace("\udcff", "?") in page.text
    # Plotly interprets names as its own subset of HTML, so names are escaped once more in the data of charts.
    assert "\\u003ca href=" not in content
    assert "\\udcff" not in content  # Plotly's faster JSON library, orjson, accepts only valid Unicode.


def test_page_warns_of_an_unfinished_run():
    page = page_of("abcd", random_run("abcd", result=None), split="validation")
    assert "This run is not finished" in page.text
    assert "by which the checkpoint was chosen" in page.text
    assert "spent" not in charts(page)


def test_page_of_a_finished_run_has_no_warning(ordinary):
    assert not [paragraph for paragraph in ordinary[1].all("p") if paragraph.get("class") == "warning"]


def test_page_leaves_out_charts_without_data():
    old = {key: value for key, value in RESULT.items() if key != "spent"}
    page = page_of("abcd", random_run("abcd", result=old, without=("train", "validation")))
    assert charts(page) == ["reliability1", "confusion1"]


def test_page_compares_several_runs():
    runs = [random_run("abcd", name=name, seed=seed) for seed, name in enumerate(("first", "second", "third"))]
    runs[1].config.optimizer.learning_rate = 0.7
    page = page_of("abcd", *runs)
    assert "3 runs on digits" in page.text and "ensemble of 3" in page.text
    assert page.text.count(" 17 4 0.0072 ") == 3
    differing = page.text.partition("Settings that differ")[2].partition("Training")[0]
    assert "optimizer.learning_rate 0.1 0.7 0.1" in differing and "num_epochs" not in differing
    per_run = [f"{chart}{number}" for number in (1, 2, 3) for chart in ("reliability", "confusion")]
    assert charts(page) == ["loss", "top1", "spent", *per_run]


def test_page_stays_usable_with_a_thousand_classes():
    classes = [f"class {number}" for number in range(1000)]
    content = render(report_data(classes, random_run(classes, size=5000)))
    page = Page(content)
    assert len(content) < 10e6
    assert "Point at a cell" in page.text
    pairs = page.text.partition("Most often confused")[2].partition("Example images")[0]
    assert 0 < len(re.findall(r"class \d", pairs)) <= 100
    assert [figure["class"] for figure in page.all("figure")][-1] == "large"
