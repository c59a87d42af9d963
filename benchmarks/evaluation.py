"""Images a second that are scored, and seconds that a checkpoint keeps training waiting.

    python -m benchmarks.evaluation

Scored are random pictures in host memory, by the evaluation of a run, and by PyTorch in its eager mode with channels
last, where it is installed; they take turns. Saving is what the loop does: the state is fetched from the device and
handed to Orbax, which writes it while training goes on; "in all" is until it is on disk, with its digests.
"""

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable

from resnet_jax import cpu

cpu.tune()  # Before JAX is imported.

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags, logging  # noqa: E402

from benchmarks import contestants, results  # noqa: E402
from resnet_jax import config as settings  # noqa: E402
from resnet_jax import parallel  # noqa: E402
from resnet_jax.data.examples import Examples  # noqa: E402
from resnet_jax.data.preprocess import Preprocess  # noqa: E402
from resnet_jax.evaluation.evaluate import make_evaluate  # noqa: E402
from resnet_jax.training import optimizer, state  # noqa: E402
from resnet_jax.workdir import WorkDir  # noqa: E402

NETWORKS = flags.DEFINE_list("networks", ["resnet20", "resnet18", "resnet50"], "Of contestants.py.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Of which the median is taken.", lower_bound=1)

BATCH_SIZE = 128
PICTURES = {32: 2048, 224: 128}  # by pixels on a side


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    figures = [{"network": network, **_scoring(network), **_saving(network)} for network in NETWORKS.value]
    results.add("evaluation", rounds=ROUNDS.value, batch_size=BATCH_SIZE, figures=figures)


def _scoring(network: str) -> dict[str, float | None]:
    """Images a second, of ours and of PyTorch."""
    side = contestants.SIDES[network]
    random, count = np.random.default_rng(0), PICTURES[side]
    images = random.integers(0, 256, (count, side, side, 3), np.uint8)
    labels = random.integers(0, contestants.CLASSES[network], count).astype(np.int32)
    score = {"ours": _our_scoring(network, images, labels)}
    if importlib.util.find_spec("torch"):
        score["torch_eager"] = _torch_scoring(network, images)
    seconds = {name: [] for name in score}
    for number in range(1 + ROUNDS.value):
        for name, once in score.items():
            started = time.perf_counter()
            once()
            if number:  # The first is for compiling.
                seconds[name].append(time.perf_counter() - started)
    rates = {name: count / statistics.median(of) for name, of in seconds.items()}
    return {"torch_eager": None, **rates}


def _our_scoring(network: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], object]:
    mesh, net = parallel.make_mesh(), contestants.make_model(network, "float32")
    evaluate = make_evaluate(net, Preprocess(contestants.MEAN, contestants.STD), BATCH_SIZE, mesh)
    variables = net.init(jax.random.key(0), np.zeros((1, *images.shape[1:]), np.float32), train=False)
    placed = parallel.place(variables, parallel.replicated(mesh))
    examples = Examples(images, labels, np.arange(len(labels)))
    return lambda: evaluate(placed, examples)


def _torch_scoring(network: str, images: np.ndarray) -> Callable[[], object]:
    import torch

    from benchmarks import pytorch

    module, normalise, device = pytorch.network_of(network)
    module.eval()
    batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(BATCH_SIZE)

    @torch.inference_mode()
    def score() -> object:
        return torch.cat([torch.log_softmax(module(normalise(batch.to(device))), 1).cpu() for batch in batches])

    return score


def _saving(network: str) -> dict[str, float]:
    """MB of the state; seconds that the loop is kept waiting for a save, and that it takes in all."""
    config, net, side = settings.default(), contestants.make_model(network, "float32"), contestants.SIDES[network]
    sgd = optimizer.make_optimizer(config, optimizer.make_schedule(config, steps_per_epoch=100), net.stage_sizes)
    created = state.create(net, sgd, (side, side, 3), seed=0)
    blocked, saved = [], []
    with tempfile.TemporaryDirectory() as scratch, WorkDir(scratch) as directory:
        directory.open_checkpoints(config.checkpoint.keep, config.checkpoint.best_metric)
        for step in range(1, 2 + ROUNDS.value):
            started = time.perf_counter()
            directory.checkpoints.save(step, parallel.fetch(created.parts), {}, None)
            blocked.append(time.perf_counter() - started)
            directory.checkpoints.wait()
            saved.append(time.perf_counter() - started)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(created.parts))
    return {
        "state_mb": size / 1e6,
        "blocked": statistics.median(blocked[1:]),
        "saved": statistics.median(saved[1:]),
    }


if __name__ == "__main__":
    app.run(main)
