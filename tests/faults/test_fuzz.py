"""Fuzzing: arbitrary files and settings raise only expected errors. The package also never runs code from files."""

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
from hypothesis import HealthCheck, given, settings, strategies
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

# `derandomize`: each run of the tests draws the same examples. No deadline, because the machine may be busy.
fuzzed = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

SETTINGS = sorted(run_settings.leaves(run_settings.default()))
JSON_VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=20),
    lambda values: (
        strategies.lists(values, max_size=3) | strategies.dictionaries(strategies.text(max_size=8), values, max_size=3)
    ),
    max_leaves=5,
)


def damaged(content):
    """Return a strategy for `content` with up to four bytes changed, and possibly truncated."""
    positions = strategies.integers(0, len(content) - 1)
    changes = strategies.lists(strategies.tuples(positions, strategies.integers(0, 255)), max_size=4)
    lengths = strategies.integers(0, len(content)) | strategies.just(len(content))
    return strategies.builds(_damage, strategies.just(content), changes, lengths)


def _damage(content, changes, length):
    changed = bytearray(content)
    for position, value in changes:
        changed[position] = value
    return bytes(changed[:length])


@fuzzed
@given(strategies.dictionaries(strategies.sampled_from(SETTINGS), JSON_VALUES, max_size=4))
@pytest.mark.slow
def test_arbitrary_settings_raise_only_user_errors(changed):
    config = run_settings.default()
    for key, value in changed.items():
        # A ConfigDict rejects values of other types itself.
        with contextlib.suppress(TypeError, ValueError):
            config.update_from_flattened_dict({key: tuple(value) if isinstance(value, list) else value})
    with contextlib.suppress(UserError):
        config_check.check(config)
        pipeline.check(config.augment, config.batch_size)
        losses.from_config(config.loss)
        optimizer.check(config)


@fuzzed
@given(
    strategies.text(max_size=100)
    | JSON_VALUES.map(json.dumps)
    | damaged(run_settings.to_json(run_settings.default()).encode()).map(
        lambda content: content.decode(errors="replace")
    )
)
def test_arbitrary_settings_files_raise_only_user_errors(text):
    with contextlib.suppress(UserError):
        run_settings.from_json(text)


@pytest.mark.parametrize("name", ["config.json", "classes.json", "result.json"])
@fuzzed
@given(content=strategies.binary(max_size=50) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_files_of_a_run_directory_raise_only_user_errors(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    directory = WorkDir(str(tmp_path))
    with contextlib.suppress(UserError):
        readers = {"config.json": directory.config, "classes.json": directory.classes, "result.json": directory.result}
        readers[name]()


@pytest.mark.parametrize("name", ["metrics.jsonl", "figures.json", "nan/nan.json"])
@fuzzed
@given(content=strategies.binary(max_size=50) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_records_of_a_run_raise_only_user_errors(tmp_path, name, content):
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
    """A run directory with a checkpoint, the arrays in it, and the content of its files that are not empty."""
    path = tmp_path_factory.mktemp("runs")
    directory = WorkDir(str(path))
    saved = {"params": {"kernel": np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)}}
    host = {"monitor": {"seconds": 0.1}, "examples": {"training": 5}}
    with directory.open_checkpoints(2, "top1") as checkpoints:
        checkpoints.save(7, saved, host, {"top1": 0.5, "loss": 1.0})
    files = {file: file.read_bytes() for file in (path / "checkpoints" / "7").rglob("*") if file.is_file()}
    return path, saved, {file: content for file, content in files.items() if content}


@settings(fuzzed, max_examples=60)
@given(data=strategies.data())
def test_damaged_checkpoint_restores_exactly_or_raises_a_user_error(checkpoint, single_device, data):
    workdir, saved, files = checkpoint
    file = data.draw(strategies.sampled_from(sorted(files)), label="file")
    file.write_bytes(data.draw(damaged(files[file]), label="content"))
    directory = WorkDir(str(workdir))
    try:
        with directory.open_checkpoints(2, "top1", read_only=True) as checkpoints:
            abstract = parallel.abstract(saved, parallel.replicated(single_device))
            restored, host = checkpoints.restore(7, abstract)
        jax.tree.map(np.testing.assert_array_equal, restored, saved)
        assert host == {"monitor": {"seconds": 0.1}, "examples": {"training": 5}}
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        file.write_bytes(files[file])


SAFETENSORS_HEADERS = strategies.dictionaries(
    strategies.text(max_size=10),
    strategies.fixed_dictionaries(
        {
            "dtype": strategies.sampled_from(["F32", "F16", "BF16", "I8", "F8_E4M3", "Q"]),
            "shape": strategies.lists(strategies.integers(-1, 2**62), max_size=4),
            "data_offsets": strategies.lists(strategies.integers(-1, 2**62), min_size=2, max_size=2),
        }
    )
    | JSON_VALUES,
    max_size=3,
)
INTACT_WEIGHTS = safetensors.numpy.save(
    {"layer1.0.conv1.weight": np.zeros((2, 2), np.float32)}, {"mean": "[0.5]", "std": "[1]"}
)


@fuzzed
@given(
    strategies.binary(max_size=50)
    | damaged(INTACT_WEIGHTS)
    | SAFETENSORS_HEADERS.map(
        lambda header: struct.pack("<Q", len(json.dumps(header))) + json.dumps(header).encode() + bytes(16)
    )
)
def test_arbitrary_weights_files_raise_only_user_errors(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        open_pretrained(str(path))


@fuzzed
@given(
    strategies.dictionaries(
        strategies.sampled_from(["mean", "std", "image_size", "classes", "model", "network"]), JSON_VALUES
    )
)
def test_arbitrary_metadata_of_weights_raises_only_user_errors(tmp_path, metadata):
    path = tmp_path / "w.safetensors"
    arrays = {"layer1.0.conv1.weight": np.zeros((2, 2), np.float32)}
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    path.write_bytes(weight_files.safetensors_bytes(arrays, texts))
    with contextlib.suppress(UserError):
        open_pretrained(str(path))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@fuzzed
@given(data=strategies.data())
def test_damaged_image_files_are_decoded_or_reported_as_unreadable(form, data):
    content = data.draw(strategies.binary(max_size=30) | damaged(encode(COLOR, form)))
    with contextlib.suppress(Unreadable):
        pixels = ImageFile(content).pixels()
        assert pixels.dtype == np.uint8
        assert pixels.shape[-1] == 3


@fuzzed
@given(strategies.sampled_from(SETTINGS), strategies.text(max_size=20) | JSON_VALUES.map(str))
def test_arbitrary_settings_on_the_command_line_fail_with_one_sentence(key, value):
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", run_settings.default(), flag_values=values)
    try:
        values(["main.py", f"--config.{key}={value}"])
    except Exception as error:  # The program catches it and prints this sentence.
        assert str(app._flag_error(error)).splitlines()[1:] == []


FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "__import__"}
UNPICKLING_MODULES = {"pickle", "cloudpickle", "marshal", "joblib", "dill", "yaml", "shelve"}


def test_package_has_no_calls_that_run_code_from_files():
    """There are two exceptions. A run pickles work for its own workers to a file that nobody else may write. A worker
    pickles an error, and unpickles it, to check that it can be sent to the run.
    """
    calls = []
    for path in [ROOT / "main.py", *(ROOT / "resnet_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in UNPICKLING_MODULES:
                calls.append((path.name, f"from {node.module} import ..."))
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                module, _, function = name.rpartition(".")
                unpickles = module in UNPICKLING_MODULES and function in ("load", "loads", "Unpickler", "open")
                true_arguments = {keyword.arg for keyword in node.keywords if ast.unparse(keyword.value) == "True"}
                unsafe_torch = name == "torch.load" and "weights_only" not in true_arguments
                if name in FORBIDDEN_CALLS or unpickles or unsafe_torch or "allow_pickle" in true_arguments:
                    calls.append((path.name, name))
    assert sorted(calls) == [("workers.py", "cloudpickle.load"), ("workers.py", "pickle.loads")]
