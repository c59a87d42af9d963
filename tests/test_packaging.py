"""The declared dependencies: one list in two files, and a core that works without the optional packages."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib

import pytest

import resnet_jax
from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
# Packages that the extras install and that the core must not need, by the names under which Python imports them.
OPTIONAL = (
    "clu",
    "dp_accounting",
    "google.cloud.storage",
    "huggingface_hub",
    "jinja2",
    "onnx",
    "onnxruntime",
    "optuna",
    "plotly",
    "pytest",
    "tensorboard",
    "tensorflow",
    "tensorflow_datasets",
)
# What is left out below: modules that need an extra, and the commands. Two command modules may define the same flag, so
# one process cannot import them all.
NOT_CORE = ("report.", "export.onnx_", "export.saved_model", "export.tflite", "cli.")
IMPORT_CORE = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({OPTIONAL}))
import resnet_jax
for module in pkgutil.walk_packages(resnet_jax.__path__, "resnet_jax."):
    if not module.name.removeprefix("resnet_jax.").startswith({NOT_CORE}):
        importlib.import_module(module.name)
from resnet_jax.cli import app
"""


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [requirement for line in lines if (requirement := line.partition("#")[0].strip())]


def test_requirements_are_the_core_and_all_extras_but_flower():
    extras = (packages for extra, packages in EXTRAS.items() if extra != "flower")
    declared = {*PYPROJECT["project"]["dependencies"], *itertools.chain.from_iterable(extras)}
    assert sorted(requirements()) == sorted(declared)


def test_extras_that_messages_name_exist():
    named = set()
    for path in (ROOT / "resnet_jax").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", None) in ("missing_extra", "needs_extra"):
                arguments = [*call.args[2:], *(keyword.value for keyword in call.keywords)]
                named |= {argument.value for argument in arguments if isinstance(argument, ast.Constant)}
    assert {"gcs", "hub", "onnx", "privacy", "report", "sweep", "tensorflow", "tfds"} <= named <= EXTRAS.keys()


def test_version_is_a_release_number():
    """The build reads the version from the source without importing the package."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", resnet_jax.__version__)


def test_core_imports_without_optional_packages():
    finished = subprocess.run([sys.executable, "-c", IMPORT_CORE], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_import_of_the_package_loads_neither_jax_nor_optional_packages():
    loaded = f"import sys, resnet_jax; assert not {{'jax', *{OPTIONAL}}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("plotly", ["report"], "report"),
        ("jinja2", ["report"], "report"),
        ("tensorflow_datasets", ["--config=configs/cifar10.py"], "tfds"),
    ],
)
def test_command_names_the_extra_that_it_needs(tmp_path, package, arguments, extra):
    command = f"""
import sys
sys.modules["{package}"] = None
sys.argv = ["main.py", *{arguments}, "--workdir={tmp_path}/run"]
from resnet_jax.cli import app
app.main()
"""
    finished = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 2
    (sentence,) = finished.stderr.splitlines()
    assert sentence.endswith(f'In a checkout of this project, run: pip install ".[{extra}]"')
