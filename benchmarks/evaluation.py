"""Images a second that are scored, and seconds that a checkpoint keeps training waiting.

    python -m benchmarks.evaluation

Scored are random pictures in host memory, by the evaluation of a run, and by PyTorch in its eager mode with channels
last, where it is installed; they take turns. Saving is what the loop does: the state is fetched from the device and
handed to Orbax, which writes it while training goes on; "in all" is until it is on disk, with its digests. The process
that saves is not tuned for a CPU.
"""

import importlib.util
import os
import statistics
import tempfile
import time

import jax
from absl import app, flags, logging

from benchmarks import contestants, results, turns
from resnet_jax import config as settings
from resnet_jax.runtime import parallel
from resnet_jax.training import optimizer, state
from resnet_jax.workdir.workdir import WorkDir

NETWORKS = flags.DEFINE_list("networks", ["resnet20", "resnet18", "resnet50"], "Of contestants.py.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Of which the median is taken.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 3.0, "Of a turn, at least a batch.", lower_bound=0.0)

BATCH_SIZE = 128


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    figures = [{"network": network, **_scoring(network), **_saving(network)} for network in NETWORKS.value]
    tuned = "for scoring, ours"
    results.add("evaluation", cpu_is_tuned=tuned, rounds=ROUNDS.value, batch_size=BATCH_SIZE, figures=figures)


def _scoring(network: str) -> dict[str, float | None]:
    """Images a second, of ours and of PyTorch."""
    names = {"ours_scoring": "ours", **({"torch_scoring": "torch_eager"} if importlib.util.find_spec("torch") else {})}
    case = (network, "float32", str(BATCH_SIZE))
    taken = turns.take(dict.fromkeys(names, 1), case, ROUNDS.value, SECONDS.value)
    rates = {names[of.name]: BATCH_SIZE / statistics.median(of.seconds) for of in taken}
    return {"torch_eager": None, **rates}


def _saving(network: str) -> dict[str, float]:
    """MB of the state; seconds that the loop is kept waiting for a save, and that it takes in all."""
    config, net, side = settings.default(), contestants.make_model(network, "float32"), contestants.SIDES[network]
    sgd = optimizer.make_optimizer(config, optimizer.make_schedule(config, steps_per_epoch=100), net.stage_sizes)
    created = state.create(net, sgd, (side, side, 3), seed=0)
    blocked, saved = [], []
    keep, best_metric = config.checkpoint.keep, config.checkpoint.best_metric
    with (
        tempfile.TemporaryDirectory() as scratch,
        WorkDir(scratch).open_checkpoints(keep, best_metric) as checkpoints,
    ):
        for step in range(1, 2 + ROUNDS.value):
            started = time.perf_counter()
            checkpoints.save(step, parallel.fetch(created.parts), {}, None)
            blocked.append(time.perf_counter() - started)
            checkpoints.wait()
            saved.append(time.perf_counter() - started)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(created.parts))
    return {
        "state_mb": size / 1e6,
        "blocked": statistics.median(blocked[1:]),
        "saved": statistics.median(saved[1:]),
    }


if __name__ == "__main__":
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # The contestants share a GPU's memory.
    app.run(main)
