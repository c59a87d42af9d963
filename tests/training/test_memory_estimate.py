import types

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.training import experiment as experiments
from resnet_jax.training import memory_estimate
from resnet_jax.training.train_step import compile_train_steps, lower_train_step

COMPILER_ERRORS = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (31.50G) exceeds "
    "available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 31.50G of 15.75G "
    "hbm. Exceeded hbm capacity by 15.75G.",
)


def compiled_step(temporary=0, arguments=0, outputs=0, aliased=0, code=0):
    """Return a stand-in for a compiled step that needs these numbers of bytes on each device."""
    usage = types.SimpleNamespace(
        temp_size_in_bytes=temporary,
        argument_size_in_bytes=arguments,
        output_size_in_bytes=outputs,
        alias_size_in_bytes=aliased,
        generated_code_size_in_bytes=code,
    )
    return types.SimpleNamespace(memory_analysis=lambda: usage)


@pytest.fixture
def set_free_memory(monkeypatch):
    """Return a function that sets how many bytes are free on each device."""

    def set_free(size):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: size)

    return set_free


def test_step_that_does_not_fit_is_an_error_with_both_sizes_and_remedies(tiny_config, mesh, set_free_memory):
    set_free_memory(4 * 10**9)
    tiny_config.batch_size = 1024
    with pytest.raises(UserError) as error:
        memory_estimate.check(compiled_step(temporary=10 * 10**9), (), tiny_config, mesh)
    assert str(error.value) == (
        "the train step needs 10.00 GB on each device, but only 4.00 GB are free. Try --config.batch_size=256, or "
        "--config.model.remat=True, which computes activations twice, or --config.optimizer.accumulate_steps, which "
        "divides each batch into microbatches."
    )


def test_error_suggests_neither_remat_if_it_is_on_nor_an_empty_batch(tiny_config, mesh, set_free_memory):
    set_free_memory(10**6)
    tiny_config.model.remat = True
    with pytest.raises(UserError, match=r"are free\. Try --config\.optimizer\.accumulate_steps"):
        memory_estimate.check(compiled_step(temporary=10**9), (), tiny_config, mesh)


def test_arguments_and_outputs_written_over_them_do_not_count(tiny_config, mesh, set_free_memory):
    """Arguments are on the devices already."""
    set_free_memory(1000)
    memory_estimate.check(
        compiled_step(temporary=900, arguments=10**9, outputs=10**9 + 100, aliased=10**9), (), tiny_config, mesh
    )
    with pytest.raises(UserError):
        memory_estimate.check(
            compiled_step(temporary=901, arguments=10**9, outputs=10**9 + 100, aliased=10**9), (), tiny_config, mesh
        )


def test_batches_in_flight_count_with_the_share_of_each_device(tiny_config, mesh, set_free_memory):
    batch = jax.ShapeDtypeStruct((16, 100), np.uint8, sharding=parallel.batch_sharded(mesh))
    set_free_memory(memory_estimate.BATCHES_IN_FLIGHT * 200)
    memory_estimate.check(compiled_step(), batch, tiny_config, mesh)
    with pytest.raises(UserError):
        memory_estimate.check(compiled_step(temporary=1), batch, tiny_config, mesh)


def test_step_is_accepted_if_the_backend_reports_no_memory_usage(tiny_config, mesh, set_free_memory):
    set_free_memory(0)
    memory_estimate.check(types.SimpleNamespace(memory_analysis=lambda: None), (), tiny_config, mesh)


@pytest.mark.parametrize("message", COMPILER_ERRORS)
def test_out_of_memory_error_of_the_tpu_compiler_becomes_a_user_error(tiny_config, mesh, message):
    def compile():
        raise jax.errors.JaxRuntimeError(message)

    expected = r"needs 33\.82 GB on each device, but only 16\.91 GB are free\. Try --config\.batch_size=32"
    with pytest.raises(UserError, match=expected):
        memory_estimate.compile_step(types.SimpleNamespace(compile=compile), tiny_config, mesh)


def test_other_compiler_errors_are_raised_unchanged(tiny_config, mesh):
    def compile():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        memory_estimate.compile_step(types.SimpleNamespace(compile=compile), tiny_config, mesh)


def test_suggested_batch_size_fits(tiny_config, mesh, monkeypatch, set_free_memory):
    """With half of the memory that the real step needs, the error suggests a batch size that is then accepted."""
    tiny_config.dataset.feed = "streaming"
    experiment = experiments.build_abstract(tiny_config, mesh)
    usage = memory_estimate.MemoryUsage.from_compiled(lower_train_step(experiment).compile())
    set_free_memory((usage.outputs + usage.temporary) // 2)
    with pytest.raises(UserError, match=r"--config\.batch_size=(8|16|32),") as error:
        compile_train_steps(experiment)
    tiny_config.batch_size = int(str(error.value).partition("batch_size=")[2].partition(",")[0])
    compile_train_steps(experiments.build_abstract(tiny_config, mesh))


def test_run_that_does_not_fit_stops_before_its_first_step(tiny_config, tmp_path, set_free_memory):
    tiny_config.dataset.feed = "resident"
    set_free_memory(1000)
    with pytest.raises(UserError, match="the train step needs"):
        resnet_jax.train(tiny_config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
