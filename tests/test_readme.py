"""What the README and the design document show works as it is written."""

import re
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from resnet_jax.data.tfds import COMMON_NAMES
from resnet_jax.models.factory import create_model
from resnet_jax.models.resnet import ResidualBlock
from resnet_jax.models.variants import VARIANTS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()


def test_recipes_it_names_are_there():
    named = set(re.findall(r"configs/\w+\.py", README))
    assert named == {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}


def test_models_and_data_sets_it_names_are_known():
    assert set(re.findall(r"\w*resne\w*\d\w*|bit_\w+", README)) <= VARIANTS.keys()
    assert set(re.findall(r"dataset\.name=(\w+)", README)) <= {"folder", *COMMON_NAMES}


def test_links_lead_somewhere():
    headings = {"#" + heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", README):
        target = "".join(target)
        assert target in headings or (ROOT / target).exists(), target


def test_the_block_of_the_design_document_makes_a_network():
    (example,) = re.findall(r"^    class .*?(?=^    \")", DESIGN, re.DOTALL | re.MULTILINE)
    names = {"nn": nn, "ResidualBlock": ResidualBlock}
    exec(textwrap.dedent(example), names)
    model = create_model("tiny", 10, block=names["NormlessBlock"], norm="bias", squeeze_excitation=2)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)["params"]
    assert params["stage1_block1"].keys() == {"conv1", "conv2", "squeeze_excitation"}


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(example.replace("/tmp/", f"{tmp_path}/"), names)
    assert names["run"].classes == ("horizontal", "vertical")
    assert names["result"]["test"]["examples"] == 200
