"""Whatever is in a file or on the command line, only our own errors come of it, and no code of theirs runs."""

import ast
import contextlib
import json
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
from absl import flags
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from ml_collections import config_flags

from resnet_jax import config as run_settings
from resnet_jax import config_check
from resnet_jax.cli import app
from resnet_jax.data.augment import pipeline
from resnet_jax.data.decode import ImageFile, Unreadable
from resnet_jax.diagnostics import replay
from resnet_jax.errors import UserError
from resnet_jax.pretrained import weight_files
from resnet_jax.pretrained.load import open_pretrained
from resnet_jax.runtime import parallel
from resnet_jax.training import losses, optimizer
from resnet_jax.training.metrics_writer import read_curves
from resnet_jax.workdir.checkpoints import Checkpoints
from resnet_jax.workdir.workdir import WorkDir
from tests.conftest import ROOT
from tests.data.test_decode import COLOR, encode

# The same examples each time, and no deadline: the machine may be busy.
fuzzed = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

SETTINGS = sorted(run_settings.leaves(run_settings.default()))
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
    lambda values: some.lists(values, max_size=3) | some.dictionaries(some.text(max_size=8), values, max_size=3),
    max_leaves=5,
)


def damaged(content):
    """The bytes with a few of them changed, and perhaps without their end."""
    changes = some.lists(some.tuples(some.integers(0, len(content) - 1), some.integers(0, 255)), max_size=4)
    return some.builds(_damage, some.just(content), changes, some.integers(0, len(content)) | some.just(len(content)))


def _damage(content, changes, length):
    changed = bytearray(content)
    for place, value in changes:
        changed[place] = value
    return bytes(changed[:length])


@fuzzed
@given(some.dictionaries(some.sampled_from(SETTINGS), VALUES, max_size=4))
def test_values_of_settings(changed):
    config = run_settings.default()
    for key, value in changed.items():
        # Other types are refused where the command line is parsed.
        with contextlib.suppress(TypeError, ValueError):
            config.update_from_flattened_dict({key: tuple(value) if isinstance(value, list) else value})
    with contextlib.suppress(UserError):
        config_check.check(config)
        pipeline.check(config.augment, config.batch_size)
        losses.from_config(config.loss)
        optimizer.check(config)


@fuzzed
@given(
    some.text(max_size=100)
    | VALUES.map(json.dumps)
    | damaged(run_settings.to_json(run_settings.default()).encode()).map(
        lambda content: content.decode(errors="replace")
    )
)
def test_files_of_settings(text):
    with contextlib.suppress(UserError):
        run_settings.from_json(text)


@pytest.mark.parametrize("name", ["config.json", "classes.json", "result.json"])
@fuzzed
@given(content=some.binary(max_size=50) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_files_of_a_run_directory(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    directory = WorkDir(str(tmp_path))
    with contextlib.suppress(UserError):
        {"config.json": directory.config, "classes.json": directory.classes, "result.json": directory.result}[name]()


@pytest.mark.parametrize("name", ["metrics.jsonl", "figures.json", "nan/nan.json"])
@fuzzed
@given(content=some.binary(max_size=50) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_records_of_a_run(tmp_path, name, content):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with contextlib.suppress(UserError):
        if name == "metrics.jsonl":
            read_curves(epath.Path(tmp_path))
        elif name == "figures.json":
            Checkpoints(epath.Path(tmp_path), 2, "top1", read_only=True).close()
        else:
            replay.load(WorkDir(str(tmp_path)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run directory with a checkpoint, what it holds, and the content of its files."""
    place = tmp_path_factory.mktemp("runs")
    directory = WorkDir(str(place))
    saved = {"params": {"kernel": np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)}}
    host = {"monitor": {"seconds": 0.1}, "examples": {"training": 5}}
    with directory.open_checkpoints(2, "top1") as checkpoints:
        checkpoints.save(7, saved, host, {"top1": 0.5, "loss": 1.0})
    files = {path: path.read_bytes() for path in (place / "checkpoints" / "7").rglob("*") if path.is_file()}
    return place, saved, {path: content for path, content in files.items() if content}


@settings(fuzzed, max_examples=60)
@given(data=some.data())
def test_files_of_a_checkpoint(checkpoint, single_device, data):
    """What is restored is what was saved."""
    place, saved, files = checkpoint
    path = data.draw(some.sampled_from(sorted(files)), label="path")
    path.write_bytes(data.draw(damaged(files[path]), label="content"))
    directory = WorkDir(str(place))
    try:
        with directory.open_checkpoints(2, "top1", read_only=True) as checkpoints:
            wanted = parallel.abstract(saved, parallel.replicated(single_device))
            restored, host = checkpoints.restore(7, wanted)
        jax.tree.map(np.testing.assert_array_equal, restored, saved)
        assert host == {"monitor": {"seconds": 0.1}, "examples": {"training": 5}}
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(files[path])


HEADERS = some.dictionaries(
    some.text(max_size=10),
    some.fixed_dictionaries(
        {
            "dtype": some.sampled_from(["F32", "F16", "BF16", "I8", "F8_E4M3", "Q"]),
            "shape": some.lists(some.integers(-1, 2**62), max_size=4),
            "data_offsets": some.lists(some.integers(-1, 2**62), min_size=2, max_size=2),
        }
    )
    | VALUES,
    max_size=3,
)
WHOLE = safetensors.numpy.save({"layer1.0.conv1.weight": np.zeros((2, 2), np.float32)}, {"mean": "[0.5]", "std": "[1]"})


@fuzzed
@given(
    some.binary(max_size=50)
    | damaged(WHOLE)
    | HEADERS.map(lambda header: struct.pack("<Q", len(json.dumps(header))) + json.dumps(header).encode() + bytes(16))
)
def test_files_of_weights(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        open_pretrained(str(path))


@fuzzed
@given(some.dictionaries(some.sampled_from(["mean", "std", "image_size", "classes", "model", "network"]), VALUES))
def test_metadata_of_weights(tmp_path, metadata):
    path = str(tmp_path / "w.safetensors")
    arrays = {"layer1.0.conv1.weight": np.zeros((2, 2), np.float32)}
    weight_files.write(path, weight_files.Weights(arrays, {key: json.dumps(value) for key, value in metadata.items()}))
    with contextlib.suppress(UserError):
        open_pretrained(path)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@fuzzed
@given(data=some.data())
def test_files_of_pictures(form, data):
    content = data.draw(some.binary(max_size=30) | damaged(encode(COLOR, form)))
    with contextlib.suppress(Unreadable):
        pixels = ImageFile(content).pixels()
        assert pixels.dtype == np.uint8
        assert pixels.shape[-1] == 3


@fuzzed
@given(some.sampled_from(SETTINGS), some.text(max_size=20) | VALUES.map(str))
def test_settings_on_the_command_line(key, value):
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", run_settings.default(), flag_values=values)
    try:
        values(["main.py", f"--config.{key}={value}"])
    except Exception as error:  # What the program catches, and tells in this sentence.
        assert app._one_sentence(error).splitlines()[1:] == []


REFUSED = {"eval", "exec", "os.system", "os.popen", "__import__"}
UNPICKLING = {"pickle", "cloudpickle", "marshal", "joblib", "dill", "yaml", "shelve"}


def test_nothing_that_runs_code_of_others_is_called():
    """But for work that a run hands to its own processes, in a file that nobody else may write."""
    found = []
    for path in [ROOT / "main.py", *(ROOT / "resnet_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in UNPICKLING:
                found.append((path.name, f"from {node.module} import ..."))
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                module, _, function = name.rpartition(".")
                unpickles = module in UNPICKLING and function in ("load", "loads", "Unpickler", "open")
                safe = {word.arg for word in node.keywords if ast.unparse(word.value) == "True"}
                unsafe_torch = name == "torch.load" and "weights_only" not in safe
                if name in REFUSED or unpickles or unsafe_torch or "allow_pickle" in safe:
                    found.append((path.name, name))
    assert sorted(found) == [("remote_work.py", "cloudpickle.load"), ("remote_work.py", "pickle.loads")]
