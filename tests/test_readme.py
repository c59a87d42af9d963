"""README and docs: every name, link and example in them is valid."""

import re
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from resnet_jax import config as settings
from resnet_jax.data.sources import LOCAL_DATASETS
from resnet_jax.data.tfds import COMMON_NAMES
from resnet_jax.models.factory import create_model
from resnet_jax.models.resnet import ResidualBlock
from resnet_jax.models.variants import VARIANTS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def test_readme_names_every_recipe():
    named = set(re.findall(r"configs/\w+\.py", README))
    assert named == {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert set(re.findall(r"configs/\w+\.py", TEXT)) == named


def test_models_and_datasets_in_readme_exist():
    assert set(re.findall(r"\w*resne\w*\d\w*|bit_\w+", README)) <= VARIANTS.keys()
    prefixes = {prefix.removesuffix(":") for prefix in LOCAL_DATASETS}
    assert set(re.findall(r"dataset\.name=(\w+)", TEXT)) <= {*prefixes, *COMMON_NAMES}


def test_settings_in_docs_exist():
    assert set(re.findall(r"--config\.([a-z_.]+)=", TEXT)) <= settings.leaves(settings.default()).keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for groups in re.findall(r"\]\((?!https?:)([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", page.read_text()):
        path, _, anchor = "".join(groups).partition("#")
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.read_text()), f"{path}#{anchor}"


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_block_in_design_document_makes_a_model():
    (example,) = re.findall(r"^    class .*?(?=^    \")", DESIGN, re.DOTALL | re.MULTILINE)
    names = {"nn": nn, "ResidualBlock": ResidualBlock}
    exec(textwrap.dedent(example), names)
    model = create_model("tiny", 10, block=names["NormlessBlock"], norm="bias", squeeze_excitation=2)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)["params"]
    assert params["stage1_block1"].keys() == {"conv1", "conv2", "squeeze_excitation"}


@pytest.mark.slow
def test_python_example_in_readme_runs(tmp_path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(example.replace("/tmp/", f"{tmp_path}/"), names)
    assert names["trained"].classes == ("horizontal", "vertical")
    assert names["result"]["test"]["examples"] == 200
