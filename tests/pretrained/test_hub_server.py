"""Downloads of public weights from a local server that speaks the protocol of the Hugging Face hub.

They run in a process of their own, because huggingface_hub reads its settings when it is imported.
"""

import json

import numpy as np
import pytest

from resnet_jax.pretrained import weight_files
from tests.end_to_end.program import run
from tests.pretrained import public_tiny
from tests.pretrained.hub_server import File, HubServer

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path):
    """Environment variables with an empty cache for huggingface_hub. "HF_ENDPOINT" is still missing."""
    return {
        "HF_HOME": str(tmp_path / "huggingface"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture
def run_script(tmp_path):
    """Return a function that runs Python code after `public_tiny.register()`, and returns what it prints, as JSON."""

    def run_script(code, environment):
        script = tmp_path / "script.py"
        script.write_text(f"import json\nfrom tests.pretrained import public_tiny\npublic_tiny.register()\n{code}")
        finished = run(program=str(script), **environment)
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run_script


def repositories(**tags):
    """Return the repositories of weights by tag, each with a file `model.safetensors`."""
    return {f"owner/tiny.{tag}": {"model.safetensors": file} for tag, file in tags.items()}


def content(tag):
    return weight_files.safetensors_bytes(public_tiny.arrays(tag))


COMPARE = """
import jax, numpy as np, resnet_jax
model, variables = resnet_jax.create_model("tiny", pretrained=True)
same = jax.tree.map(lambda one, other: bool(np.array_equal(one, other)), variables, public_tiny.variables("first"))
print(json.dumps(all(jax.tree.leaves(same))))
"""


def test_weights_are_downloaded_once_and_then_read_without_a_connection(environment, run_script):
    with HubServer(repositories(first=File(content("first")))) as server:
        environment["HF_ENDPOINT"] = server.endpoint
        assert run_script(COMPARE, environment) is True
        assert [path for method, path in server.requests if method == "GET"] == [
            "/owner/tiny.first/resolve/main/model.safetensors"
        ]
        assert run_script(COMPARE, environment) is True
        assert [method for method, _ in server.requests].count("GET") == 1
    assert run_script(COMPARE, environment) is True  # The server has stopped.
    assert run_script(COMPARE, environment | {"HF_HUB_OFFLINE": "1"}) is True


ERRORS = """
import resnet_jax
from resnet_jax.errors import UserError
messages = []
for tag in ("first", "second", "second"):
    try:
        resnet_jax.create_model("tiny", pretrained=tag)
    except UserError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


def test_truncated_and_damaged_downloads_are_refused(environment, run_script):
    good = content("first")
    damaged = bytearray(good)
    damaged[-1] ^= 1
    files = {
        "first": File(good[:-100], size=len(good)),
        "second": File(bytes(damaged), sha256=File(good).sha256),
    }
    with HubServer(repositories(**files)) as server:
        truncated, *others = run_script(ERRORS, environment | {"HF_ENDPOINT": server.endpoint})
    size = f"file should be of size {len(good)} but has size {len(good) - 100}"
    assert truncated.startswith(f"cannot download hf://owner/tiny.first (Consistency check failed: {size}")
    assert len(others) == 2  # The file is checked again when it is read from the cache.
    for message in others:
        assert message.startswith("the local copy of hf://owner/tiny.second is damaged: its SHA-256 is not the one")
        assert f"Delete {environment['HF_HOME']}" in message
    assert "\n" not in truncated + others[0]


def test_missing_repositories_and_files_are_reported(environment, run_script):
    with HubServer({"owner/tiny.first": {"README.md": File(b"# Tiny")}}) as server:
        no_file, no_repository, _ = run_script(ERRORS, environment | {"HF_ENDPOINT": server.endpoint})
    assert no_file.startswith(
        "cannot download hf://owner/tiny.first (it has no model.safetensors or pytorch_model.bin)"
    )
    assert no_repository.startswith("cannot download hf://owner/tiny.second (")
    assert "\n" not in no_file + no_repository


def test_commands_use_public_weights(environment, tmp_path):
    target = str(tmp_path / "exported.safetensors")
    flags = ("--config=configs/digits.py", "--config.model.name=tiny", "--config.init_from=pretrained:second")
    options = {"program": public_tiny.__file__, **environment}
    with HubServer(repositories(second=File(content("second")))) as server:
        exported = run("export", *flags, f"--to={target}", HF_ENDPOINT=server.endpoint, **options)
        assert exported.returncode == 0, exported.stderr
        assert "Wrote hf://owner/tiny.second to" in exported.stdout + exported.stderr
        scored = run("evaluate", *flags, "--format=json", HF_ENDPOINT=server.endpoint, **options)
        assert scored.returncode == 0, scored.stderr
    weights = weight_files.read(target)
    for name, array in public_tiny.arrays("second").items():
        np.testing.assert_array_equal(weights.arrays[name], array)
    assert json.loads(weights.metadata["mean"]) == list(public_tiny.MEAN)
    assert "hf://owner/tiny.second" in scored.stdout
