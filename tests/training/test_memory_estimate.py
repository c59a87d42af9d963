import types

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.training import experiment as setups
from resnet_jax.training import memory_estimate

REFUSALS = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (31.50G) exceeds "
    "available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 31.50G of 15.75G "
    "hbm. Exceeded hbm capacity by 15.75G.",
)


def program(temporary=0, arguments=0, outputs=0, aliased=0, code=0):
    """A compiled step that takes so many bytes on each device."""
    usage = types.SimpleNamespace(
        temp_size_in_bytes=temporary,
        argument_size_in_bytes=arguments,
        output_size_in_bytes=outputs,
        alias_size_in_bytes=aliased,
        generated_code_size_in_bytes=code,
    )
    return types.SimpleNamespace(memory_analysis=lambda: usage)


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes are free on each device."""

    def free(size):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: size)

    return free


def test_a_step_that_does_not_fit_names_both_figures_and_what_to_try(tiny_config, mesh, free):
    free(4 * 10**9)
    tiny_config.batch_size = 1024
    with pytest.raises(UserError) as error:
        memory_estimate.check(program(temporary=10 * 10**9), (), tiny_config, mesh)
    assert str(error.value) == (
        "the train step takes 10.00 GB on each device, and 4.00 GB are free there: try --config.batch_size=256, or "
        "--config.model.remat=True, which computes activations twice, or --config.optimizer.accumulate_steps, which "
        "takes a batch in parts"
    )


def test_remat_is_not_proposed_to_those_who_have_it_nor_a_batch_of_nothing(tiny_config, mesh, free):
    free(10**6)
    tiny_config.model.remat = True
    with pytest.raises(UserError, match=r"are free there: try --config\.optimizer\.accumulate_steps"):
        memory_estimate.check(program(temporary=10**9), (), tiny_config, mesh)


def test_what_is_on_the_devices_already_does_not_count_again(tiny_config, mesh, free):
    """Arguments are there, and what is written over them takes no more room."""
    free(1000)
    memory_estimate.check(
        program(temporary=900, arguments=10**9, outputs=10**9 + 100, aliased=10**9), (), tiny_config, mesh
    )
    with pytest.raises(UserError):
        memory_estimate.check(
            program(temporary=901, arguments=10**9, outputs=10**9 + 100, aliased=10**9), (), tiny_config, mesh
        )


def test_batches_on_the_way_count_a_share_on_each_device(tiny_config, mesh, free):
    batch = jax.ShapeDtypeStruct((16, 100), np.uint8, sharding=parallel.batch_sharded(mesh))
    free(memory_estimate.BATCHES_ON_THE_WAY * 200)
    memory_estimate.check(program(), batch, tiny_config, mesh)
    with pytest.raises(UserError):
        memory_estimate.check(program(temporary=1), batch, tiny_config, mesh)


def test_a_backend_that_does_not_tell_is_trusted(tiny_config, mesh, free):
    free(0)
    memory_estimate.check(types.SimpleNamespace(memory_analysis=lambda: None), (), tiny_config, mesh)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_the_refusal_of_a_tpus_compiler_is_told_in_the_same_sentence(tiny_config, mesh, refusal):
    def compile():
        raise jax.errors.JaxRuntimeError(refusal)

    sentence = r"takes 33\.82 GB on each device, and 16\.91 GB are free there: try --config\.batch_size=32"
    with pytest.raises(UserError, match=sentence):
        memory_estimate.compile_step(types.SimpleNamespace(compile=compile), tiny_config, mesh)


def test_other_errors_of_the_compiler_stay_what_they_are(tiny_config, mesh):
    def compile():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        memory_estimate.compile_step(types.SimpleNamespace(compile=compile), tiny_config, mesh)


def test_a_batch_of_the_proposed_size_fits(tiny_config, mesh, monkeypatch, free):
    """The real step: with room for half of it, the sentence proposes a batch with which the same run is accepted."""
    tiny_config.dataset.feed = "streaming"
    taken = setups.prepare_described(tiny_config, mesh)
    usage = memory_estimate.Usage.of(taken.lower(1).compile())
    free((usage.outputs + usage.temporary) // 2)
    with pytest.raises(UserError, match=r"--config\.batch_size=(8|16|32),") as error:
        taken.compile_steps()
    tiny_config.batch_size = int(str(error.value).partition("batch_size=")[2].partition(",")[0])
    setups.prepare_described(tiny_config, mesh).compile_steps()


def test_a_run_stops_before_its_first_step(tiny_config, tmp_path, free):
    tiny_config.dataset.feed = "resident"
    free(1000)
    with pytest.raises(UserError, match="the train step takes"):
        resnet_jax.train(tiny_config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
