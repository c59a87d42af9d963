import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax.data.sources import open_sources
from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.runtime import parallel
from resnet_jax.training import experiment as setups
from resnet_jax.training import train_step
from resnet_jax.workdir.workdir import WorkDir


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1 * 2 + 0.9 * 10), (8, 0.5 * 2 + 0.5 * 10), (1000, 0.6 * 2 + 0.4 * 10)],
    ids=["decay 1/10", "decay 9/18", "decay 0.6"],
)
def test_averages_on_numbers_worked_out_by_hand(step, expected):
    averages = train_step.update({"kernel": jnp.array([2.0])}, {"kernel": jnp.array([10.0])}, 0.6, jnp.int32(step))
    np.testing.assert_allclose(averages["kernel"], [expected], rtol=1e-6)


def test_a_state_averages_what_it_has_been(tiny_config, single_device):
    tiny_config.ema_decay = 0.15  # From the second step on, where (1 + step) / (10 + step) is larger.
    experiment = setups.prepare(tiny_config, single_device, open_sources("digits"), UnreadableImages(0, print))
    state, step = experiment.initial_state(), experiment.compile_steps()[1]
    states = [parallel.fetch(state)]
    for _ in range(3):
        state, _ = step(state, experiment.feed.inputs(0))
        states.append(parallel.fetch(state))
    expected = {"params": states[0].params, "batch_stats": states[0].batch_stats}
    for number, decay in enumerate([0.1, 0.15, 0.15], 1):
        now = {"params": states[number].params, "batch_stats": states[number].batch_stats}
        expected = jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, expected, now)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), states[-1].ema, expected
    )
    assert states[-1].variables is states[-1].ema


def test_a_run_is_judged_by_its_averages(tiny_config, tmp_path):
    tiny_config.ema_decay = 0.9
    resnet_jax.train(tiny_config, str(tmp_path))
    run, directory = resnet_jax.load_run(str(tmp_path)), WorkDir(str(tmp_path))
    wanted = parallel.abstract(run.variables, parallel.replicated(run.mesh))
    with contextlib.closing(directory):
        directory.open_checkpoints(2, "top1", read_only=True)
        items, _ = directory.checkpoints.restore(run.step, {**wanted, "ema": wanted})
    jax.tree.map(np.testing.assert_array_equal, run.variables, items["ema"])
    assert (run.variables["params"]["head"]["kernel"] != items["params"]["head"]["kernel"]).any()
