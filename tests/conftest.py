"""What all tests share: eight simulated devices, a compilation cache, a tiny network, and the real data where it is."""

import os
import pathlib

# Before JAX is imported: its settings are read once. What is compiled here is small and runs for a moment, so LLVM need
# not optimise it, which halves the time to compile. Subprocesses have XLA_FLAGS of their own: they run as for users.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

import shutil
import sys

import jax
import pytest

import resnet_jax
from resnet_jax import config as settings
from resnet_jax.models import variants
from resnet_jax.runtime import parallel
from tests.end_to_end.tiny import TINY

ROOT = pathlib.Path(__file__).parent.parent


def pytest_configure(config):
    """Compiled programs are kept between tests and between runs of the suite, for subprocesses too.

    A worker of pytest-xdist has its own: without a limit JAX does not lock them, and would read what is half written.
    """
    cache = config.cache.mkdir("jax")
    if "PYTEST_XDIST_WORKER" in os.environ:
        own = config.cache.mkdir(f"jax-{os.environ['PYTEST_XDIST_WORKER']}")
        cache = shutil.copytree(cache, own, dirs_exist_ok=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("user"))  # Not in the user's home.
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Collect no docstring examples from tests/: `--doctest-modules` would import every helper module for them."""
    collectors = yield
    return [collector for collector in collectors if type(collector) is pytest.Module]


@pytest.fixture(autouse=True)
def tiny_variant(monkeypatch):
    """A network that compiles in a second, by the name "tiny"."""
    monkeypatch.setitem(variants.VARIANTS, "tiny", TINY)


@pytest.fixture
def tiny_config():
    """Two short epochs of the tiny network on digits."""
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
def place_of_tiny_run(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("runs") / "tiny"


@pytest.fixture
def tiny_run(place_of_tiny_run, tiny_config) -> pathlib.Path:
    """The place of the finished run that `tiny_config` makes, trained once for all tests: they leave it as it is."""
    if not (place_of_tiny_run / "result.json").exists():
        resnet_jax.train(tiny_config, str(place_of_tiny_run))
    return place_of_tiny_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> pathlib.Path:
    """The place of a run of `SHORT_DIGITS` that nothing has interrupted; tests leave it as it is."""
    from tests.end_to_end.program import SHORT_DIGITS, run

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    finished = run(*SHORT_DIGITS, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return workdir


@pytest.fixture(scope="session")
def mesh():
    """All eight devices."""
    return parallel.make_mesh()


@pytest.fixture(scope="session")
def single_device():
    """A mesh of one device."""
    return parallel.make_mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real data sets; without it the tests that need them are skipped."""
    if "RESNET_JAX_TEST_DATA" not in os.environ:
        pytest.skip("RESNET_JAX_TEST_DATA names no folder with real data sets")
    return (ROOT / os.environ["RESNET_JAX_TEST_DATA"]).resolve()


@pytest.fixture
def without(monkeypatch):
    """Makes a package look not installed."""
    return lambda package: monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """gs://bucket as a store that takes whole files only; it lies in a directory, which is returned."""
    from etils.epath import gpath, testing

    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)  # It would look for a real bucket.

    def local(path):
        return str(path).replace("gs://bucket", str(tmp_path / "bucket"))

    def translated(original, *paths, **options):
        return original(*map(local, paths), **options)

    def opened(original, path, mode):
        assert "a" not in mode, "a bucket's files cannot be appended to"
        return original(local(path), mode)

    names = ("copy", "exists", "isdir", "listdir", "makedirs", "mkdir", "remove", "rename", "replace", "rmtree", "stat")
    (tmp_path / "bucket").mkdir()
    with testing.mock_epath(open=opened, glob=translated, **dict.fromkeys(names, translated)):
        yield tmp_path / "bucket"
