"""What the README shows works as it is written."""

import re

import pytest

from resnet_jax.data.tfds import COMMON_NAMES
from resnet_jax.models.variants import VARIANTS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_recipes_it_names_are_there():
    named = set(re.findall(r"configs/\w+\.py", README))
    assert named == {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}


def test_models_and_data_sets_it_names_are_known():
    assert set(re.findall(r"resnet\d+", README)) <= VARIANTS.keys()
    assert set(re.findall(r"dataset\.name=(\w+)", README)) <= {"folder", *COMMON_NAMES}


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(example.replace("/tmp/", f"{tmp_path}/"), names)
    assert names["run"].classes == ("horizontal", "vertical")
    assert names["result"]["test"]["examples"] == 200
