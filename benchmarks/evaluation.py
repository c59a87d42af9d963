"""Images per second of scoring, and the seconds for which a checkpoint blocks training.

    python -m benchmarks.evaluation

Scoring: random images in host memory are scored by the evaluation of a run and, if PyTorch is installed, by PyTorch in
eager mode with channels last. The two take turns.

Saving: as in the training loop, the state is fetched from the device and handed to Orbax, which writes it in the
background. The loop is blocked until Orbax has taken the state. The whole save ends when the checkpoint is on disk,
with its digests. The process that saves runs without CPU tuning.
"""

import importlib.util
import os
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from benchmarks import contestants, results, turns
from resnet_jax import config as settings
from resnet_jax.runtime import parallel
from resnet_jax.training import optimizer
from resnet_jax.training.state import create_train_state
from resnet_jax.workdir.workdir import WorkDir

MODELS = flags.DEFINE_list("models", ["resnet20", "resnet18", "resnet50"], "Models to measure; see contestants.py.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, over which the median is taken.", lower_bound=1)
SECONDS = flags.DEFINE_float(
    "seconds", 3.0, "Approximate seconds per turn. A turn has at least one batch.", lower_bound=0.0
)

BATCH_SIZE = 128


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    measured = [{"network": name, **_measure_scoring(name), **_measure_saving(name)} for name in MODELS.value]
    results.add(
        "evaluation",
        cpu_is_tuned="for scoring, ours",
        rounds=ROUNDS.value,
        batch_size=BATCH_SIZE,
        figures=measured,
    )


def _measure_scoring(model_name: str) -> dict[str, float | None]:
    """Return the images per second of our evaluation and of PyTorch (None if it is not installed)."""
    recorded_names = {"ours_scoring": "ours"}
    if importlib.util.find_spec("torch"):
        recorded_names["torch_scoring"] = "torch_eager"
    case = (model_name, "float32", str(BATCH_SIZE))
    measured = turns.take_turns(dict.fromkeys(recorded_names, 1), case, ROUNDS.value, SECONDS.value)
    rates = {
        recorded_names[contestant.name]: BATCH_SIZE / statistics.median(contestant.seconds) for contestant in measured
    }
    return {"torch_eager": None, **rates}


def _measure_saving(model_name: str) -> dict[str, float]:
    """Return the size of the state in MB, the seconds for which a save blocks the loop, and those of the whole save."""
    config = settings.default()
    model = contestants.make_model(model_name, "float32")
    schedule = optimizer.make_schedule(config, steps_per_epoch=100)
    sgd = optimizer.make_optimizer(config, schedule, model.stage_sizes)
    size = contestants.IMAGE_SIZES[model_name]
    state = create_train_state(model, sgd, (size, size, 3), seed=0)
    blocked, saved = [], []
    keep, best_metric = config.checkpoint.keep, config.checkpoint.best_metric
    with (
        tempfile.TemporaryDirectory() as scratch,
        WorkDir(scratch).open_checkpoints(keep, best_metric) as checkpoints,
    ):
        for step in range(1, 2 + ROUNDS.value):
            # New arrays, because JAX keeps the host copies of arrays that it has fetched.
            items = jax.block_until_ready(jax.tree.map(jnp.copy, state.checkpoint_items))
            started = time.perf_counter()
            checkpoints.save(step, parallel.fetch(items), {}, None)
            blocked.append(time.perf_counter() - started)
            checkpoints.wait()
            saved.append(time.perf_counter() - started)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.checkpoint_items))
    return {
        "state_mb": num_bytes / 1e6,
        "blocked": statistics.median(blocked[1:]),  # The first save is a warm-up.
        "saved": statistics.median(saved[1:]),
    }


if __name__ == "__main__":
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # The contestants share a GPU's memory.
    app.run(main)
