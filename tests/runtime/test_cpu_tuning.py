import ctypes
import functools
import json
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import hardware_utils

from resnet_jax import config as settings
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.models.factory import create_model
from resnet_jax.runtime import cpu_tuning, parallel
from resnet_jax.training import losses
from resnet_jax.training.freezing import NOTHING_FROZEN
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import loss_fn
from tests.end_to_end.program import ROOT, SHORT_DIGITS, run


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    """Keep the tests from tuning this process."""
    monkeypatch.setattr(cpu_tuning, "_is_tuned", False)
    monkeypatch.setattr(cpu_tuning, "_other_devices", None)
    monkeypatch.setattr(cpu_tuning, "_keep_memory", lambda: True)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(cpu_tuning, "_device_packages", list)


# The optimization level outside of tests. The other tests compile with less optimization by LLVM, and XLA then
# delegates less to YNNPACK.
OPTIMIZED = {"xla_backend_optimization_level": 3}
WITHOUT_YNNPACK = {cpu_tuning.YNNPACK: ""}
NHWC = ("NHWC", "HWIO", "NHWC")


def gradients(dtype, options):
    """Return the gradients, as one vector, of a model with 7x7, 3x3 and 1x1 convolutions, with and without strides."""
    model = create_model("resnet18", 10, width=16, stage_sizes=(1, 1), dtype=jnp.dtype(dtype))
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (16, 64, 64, 3), np.uint8), random.integers(0, 10, 16)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    state = TrainState(jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], (), {})
    experiment = types.SimpleNamespace(
        config=settings.default(),
        model=model,
        preprocess=Preprocess((0.5,) * 3, (0.25,) * 3),
        loss=losses.from_config(settings.default().loss),
        freezing=NOTHING_FROZEN,
        second_augment=None,
        teacher=None,
    )
    gradient = jax.grad(functools.partial(loss_fn, experiment), has_aux=True)
    compiled = jax.jit(gradient, compiler_options={**OPTIMIZED, **options})
    grads, _ = compiled(state.params, state, images, labels)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])


@pytest.mark.slow
def test_tuned_gradients_agree_with_those_of_xla_alone():
    """Gradients agree up to rounding in float32 and bfloat16. If they were equal, the tuning would have no effect."""
    cpu_tuning.tune()
    tuned = cpu_tuning.compiler_options("cpu")
    expected = gradients("float32", WITHOUT_YNNPACK)
    actual = gradients("float32", tuned)
    size = np.linalg.norm(expected)
    assert 0 < np.linalg.norm(actual - expected) < 1e-5 * size
    error = np.linalg.norm(gradients("bfloat16", WITHOUT_YNNPACK) - expected)
    assert 0 < error < 0.1 * size
    assert np.linalg.norm(gradients("bfloat16", tuned) - expected) < 1.5 * error


def test_tuning_delegates_reductions_but_no_kernel_gradients_to_ynnpack():
    """Without tuning, XLA delegates both. If this changes, check whether the tuning is still needed."""

    def delegated_to_ynnpack():
        def loss(kernel, x):
            return (jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC) ** 2).sum()

        options = {**OPTIMIZED, **cpu_tuning.compiler_options("cpu")}
        shapes = jnp.ones((3, 3, 64, 64)), jnp.ones((64, 32, 32, 64))
        lowered = jax.jit(jax.value_and_grad(loss), compiler_options=options).lower(*shapes)
        text = lowered.compile().as_text()
        names = set(re.findall(r"calls=(%[^\s,]+).*__ynn_fusion", text))
        bodies = [body for body in text.split("\n\n") if body.strip().split(" ")[0] in names]
        return {kind for kind in ("convolution(", "reduce(") if any(kind in body for body in bodies)}

    assert delegated_to_ynnpack() == {"convolution(", "reduce("}
    cpu_tuning.tune()
    assert delegated_to_ynnpack() == {"reduce("}


def test_compiler_options_of_other_devices_are_unchanged():
    assert cpu_tuning.compiler_options("cpu") == {}
    cpu_tuning.tune()
    assert cpu_tuning.compiler_options("cpu")
    assert cpu_tuning.log_line("cpu").startswith("Tuned for the CPU")
    assert cpu_tuning.compiler_options("tpu") == cpu_tuning.compiler_options("gpu") == {}


@pytest.mark.parametrize("platforms", ["cuda", "tpu,cpu", "cpu,cuda"])
def test_tune_does_nothing_if_the_user_chooses_other_devices(monkeypatch, platforms):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    cpu_tuning.tune()
    assert not cpu_tuning.is_tuned()


@pytest.fixture
def tpu_files(monkeypatch, tmp_path):
    """Install libtpu, and return the directory in which its devices are looked for."""
    monkeypatch.setattr(cpu_tuning, "_device_packages", lambda: ["libtpu"])
    monkeypatch.setattr(cpu_tuning, "DEVICE_FILES", {"libtpu": (f"{tmp_path}/accel[0-9]*", f"{tmp_path}/vfio/[0-9]*")})
    return tmp_path


@pytest.mark.parametrize("file", ["accel0", "vfio/17"])
def test_tune_does_nothing_if_jax_may_find_other_devices_unless_the_user_chooses_the_cpu(monkeypatch, tpu_files, file):
    (tpu_files / file).parent.mkdir(exist_ok=True)
    (tpu_files / file).touch()
    cpu_tuning.tune()
    assert not cpu_tuning.is_tuned()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    cpu_tuning.tune()
    assert cpu_tuning.is_tuned()


def test_tune_takes_effect_if_a_package_for_other_devices_has_no_device(tpu_files):
    """Any Linux may have `vfio/vfio`, and one on a laptop with a neural processing unit has the directory `accel`."""
    for directory, file in (("vfio", "vfio"), ("accel", "accel0")):
        (tpu_files / directory).mkdir()
        (tpu_files / directory / file).touch()
    cpu_tuning.tune()
    assert cpu_tuning.is_tuned()


def test_tune_does_nothing_if_devices_of_a_package_cannot_be_ruled_out(monkeypatch, tpu_files):
    monkeypatch.setattr(sys, "platform", "darwin")
    cpu_tuning.tune()
    assert not cpu_tuning.is_tuned()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cpu_tuning, "_device_packages", lambda: ["libtpu", "jax_plugins.xla_new"])
    cpu_tuning.tune()
    assert not cpu_tuning.is_tuned()


def test_device_packages_lists_the_plugins_of_jax(monkeypatch, tmp_path):
    monkeypatch.undo()
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert "jax_plugins.xla_cuda13" in cpu_tuning._device_packages()


def test_nvidia_files_are_those_that_jax_looks_for():
    assert list(cpu_tuning.NVIDIA_FILES) == hardware_utils._NVIDIA_GPU_DEVICES


@pytest.mark.parametrize(
    ("packages", "platforms", "reason"),
    [(["jax_plugins.xla_new"], "", "installed: jax_plugins.xla_new"), ([], "cpu,cuda", "JAX_PLATFORMS is cpu,cuda")],
)
def test_run_on_the_cpu_logs_why_it_is_not_tuned(monkeypatch, packages, platforms, reason):
    assert cpu_tuning.log_line("cpu") is None  # `tune` was not called, as with --notune_cpu.
    monkeypatch.setattr(cpu_tuning, "_device_packages", lambda: packages)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    cpu_tuning.tune()
    expected = f"Not tuned for the CPU, because JAX might have used another device ({reason}). To train faster, set"
    assert cpu_tuning.log_line("cpu").startswith(expected)
    assert cpu_tuning.log_line("tpu") is None


def test_tune_does_nothing_with_another_c_library(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(cpu_tuning, "_is_tuned", False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    cpu_tuning.tune()
    assert not cpu_tuning.is_tuned()


FAULTS = """
import resource, sys
import numpy as np
from resnet_jax.runtime import cpu_tuning, parallel

if sys.argv[1] == "tuned":
    cpu_tuning.tune()
    assert cpu_tuning.is_tuned()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.full(2**26, 1, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
@pytest.mark.slow
def test_tuned_process_reuses_freed_memory():
    """Count the page faults of eight allocations of 64 MiB, after three rounds of such allocations.

    Each allocation has 16,384 pages, or 32 large pages.
    """

    def faults(tuning):
        command = [sys.executable, "-c", FAULTS, tuning]
        environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    assert faults("untuned") > 200
    assert faults("tuned") < 20


@pytest.mark.slow
def test_run_records_whether_it_is_tuned(tmp_path, finished_run):
    arguments = (*SHORT_DIGITS, "--config.num_epochs=1", f"--workdir={tmp_path}/run", "--notune_cpu")
    finished = run(*arguments, JAX_PLATFORMS="cpu")
    assert finished.returncode == 0, finished.stderr
    assert "Tuned for the CPU" not in finished.stdout
    for workdir, tuned in ((finished_run, True), (tmp_path / "run", False)):
        result = json.loads((workdir / "result.json").read_text())
        assert result["provenance"]["cpu_is_tuned"] == tuned


def test_jit_passes_the_compiler_options_to_xla(single_device, monkeypatch):
    """XLA refuses an option that it does not know."""
    cpu_tuning.tune()
    monkeypatch.setattr(cpu_tuning, "YNNPACK", "xla_cpu_no_such_option")
    with pytest.raises(Exception, match="xla_cpu_no_such_option"):
        parallel.jit(lambda x: x + 1, single_device)(jnp.ones(3))
