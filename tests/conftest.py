"""Shared fixtures: eight simulated devices, a compilation cache, a tiny model, and real datasets if present."""

import gc
import os
import pathlib

# JAX reads these settings once, so set them before it is imported. The XLA programs that tests compile are small and
# run only briefly. Without LLVM's optimizations they compile in half the time. Each compiles on one core, because other
# tests keep the other cores busy. `tests/end_to_end/program.py` clears XLA_FLAGS for the processes that it starts,
# because they must run as they do for users.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)

import sys

import filelock
import jax
import pytest

import resnet_jax
from resnet_jax import config as settings
from resnet_jax.models import variants
from resnet_jax.runtime import parallel
from tests.end_to_end.tiny import TINY_VARIANT

ROOT = pathlib.Path(__file__).parent.parent


def pytest_configure(config):
    """Cache compiled programs between tests and between runs of the suite, for subprocesses too.

    All workers of pytest-xdist share the cache. XLA's own caches, which only GPUs use, are turned off: with them, the
    keys of the programs would depend on the path of the cache.
    """
    cache = config.cache.mkdir("jax")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
    os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("user"))  # Leave the user's home alone.
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def pytest_collection_finish():
    """Keep the garbage collector from examining what was imported: `workers.results` collects whenever it ends."""
    gc.collect()
    gc.freeze()


def train_once(tmp_path_factory, name, train):
    """Return the directory of a run that one worker of pytest-xdist trains for all. Tests must not change it.

    Args:
      tmp_path_factory: the fixture.
      name: the name of the directory.
      train: trains the run in the directory that it is given.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # that of all workers
    workdir = root / name
    with filelock.FileLock(f"{workdir}.lock"):
        if not (workdir / "result.json").exists():
            train(workdir)
    return workdir


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Keep `--doctest-modules` out of tests/, where it would import every helper module to look for examples."""
    collectors = yield
    return [collector for collector in collectors if type(collector) is pytest.Module]


@pytest.fixture(autouse=True)
def tiny_variant(monkeypatch):
    """Register a model named "tiny" that compiles in a second."""
    monkeypatch.setitem(variants.VARIANTS, "tiny", TINY_VARIANT)


@pytest.fixture
def tiny_config():
    """Settings for two short epochs of the tiny model on digits."""
    config = settings.default()
    config.model.name = "tiny"
    config.dataset.train_split = "train[:400]"
    config.dataset.test_split = "test[:100]"
    config.augment.crop_padding = 1
    config.batch_size = 64
    config.num_epochs = 2
    config.log_every_steps = 2
    return config


@pytest.fixture(scope="session")
def tiny_run_path(tmp_path_factory) -> pathlib.Path:
    """The path of `tiny_run`, which the first test that uses `tiny_run` creates."""
    return tmp_path_factory.mktemp("runs") / "tiny"


@pytest.fixture
def tiny_run(tiny_run_path, tiny_config) -> pathlib.Path:
    """The directory of a finished run of `tiny_config`, trained once for all tests. Tests must not change it."""
    if not (tiny_run_path / "result.json").exists():
        resnet_jax.train(tiny_config, str(tiny_run_path))
    return tiny_run_path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> pathlib.Path:
    """The directory of an uninterrupted run of `SHORT_DIGITS`, with TensorBoard. Tests must not change it."""
    from tests.end_to_end.program import SHORT_DIGITS, WITH_TENSORFLOW, run

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    finished = run(*SHORT_DIGITS, f"--workdir={workdir}", **WITH_TENSORFLOW)
    assert finished.returncode == 0, finished.stderr
    return workdir


@pytest.fixture(scope="session")
def mesh():
    """A mesh of all eight devices."""
    return parallel.make_mesh()


@pytest.fixture(scope="session")
def single_device():
    """A mesh of one device."""
    return parallel.make_mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real datasets. Tests that need it are skipped if RESNET_JAX_TEST_DATA is not set."""
    if "RESNET_JAX_TEST_DATA" not in os.environ:
        pytest.skip("RESNET_JAX_TEST_DATA is not set to a folder with real datasets")
    return (ROOT / os.environ["RESNET_JAX_TEST_DATA"]).resolve()


@pytest.fixture(scope="session")
def published(test_data, single_device):
    """The published ResNet-20 for CIFAR-10, as a `TrainedModel`."""
    pytest.importorskip("torch", reason="reading the file needs PyTorch")
    from resnet_jax.cli import recipe
    from resnet_jax.data.sources import open_sources
    from resnet_jax.pretrained.load import load_pretrained, open_pretrained

    config = recipe.load(f"{ROOT}/configs/cifar10.py:resnet20")
    config.dataset.data_dir = str(test_data / "tfds")
    weights = open_pretrained(str(test_data / "weights" / "resnet20-12fca82f.th"))
    sources = open_sources("cifar10", config.dataset.data_dir)
    return load_pretrained(config, weights, sources, mesh=single_device)


@pytest.fixture
def hide_package(monkeypatch):
    """Return a function that makes a package look as if it were not installed."""
    return lambda package: monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Emulate gs://bucket in a local directory, and return that directory. Its files cannot be appended to."""
    from etils.epath import gpath, testing

    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)  # TensorFlow would look for a real bucket.

    def to_local_path(path):
        return str(path).replace("gs://bucket", str(tmp_path / "bucket"))

    def call_with_local_paths(original, *paths, **options):
        return original(*map(to_local_path, paths), **options)

    def open_local(original, path, mode):
        assert "a" not in mode, "a bucket's files cannot be appended to"
        return original(to_local_path(path), mode)

    names = ("copy", "exists", "isdir", "listdir", "makedirs", "mkdir", "remove", "rename", "replace", "rmtree", "stat")
    (tmp_path / "bucket").mkdir()
    translated = dict.fromkeys((*names, "glob"), call_with_local_paths)
    with testing.mock_epath(open=open_local, **translated):
        yield tmp_path / "bucket"
