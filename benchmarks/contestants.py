"""The contestants: functions that take train steps (ours, one in the style of Flax's examples) or score batches.

    python -m benchmarks.contestants ours resnet20 float32 128 2    # with 2 steps to warm up

The command runs one contestant, of this module, `pytorch.py` or `exported.py`, in its own process. It prints a line
when it is ready. For each number that it reads from standard input, it takes that many steps and prints the seconds.

All train steps train the same model on a batch of uint8 images that stays on the device: they normalize the images,
compute loss, accuracy and gradients, and update with SGD, Nesterov momentum and weight decay.

The names of the contestants are part of the recorded results, so they must not change.
"""

import functools
import importlib
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks import tunings

NUM_CLASSES = {"resnet20": 10, "resnet18": 10, "airbench94": 10, "resnet18_224": 1000, "resnet50": 1000}
IMAGE_SIZES = {"resnet20": 32, "resnet18": 32, "airbench94": 32, "resnet18_224": 224, "resnet50": 224}  # pixels
STEMS = {"resnet18": "cifar"}  # stems that differ from those of the model table
VARIANTS = {"resnet18_224": "resnet18"}  # the names in the model table that differ from ours
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
STEPS_PER_EPOCH, NUM_EPOCHS = 400, 10  # for the learning-rate schedule

MODULES = {"torch": "pytorch", "exported": "exported"}  # of other contestants, by how their names begin

TakeSteps = Callable[[int], float]  # takes this many steps and returns the last loss


def random_batch(model_name: str, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images [batch, size, size, 3] and int32 labels [batch]."""
    generator = np.random.default_rng(0)
    size = IMAGE_SIZES[model_name]
    images = generator.integers(0, 256, (batch_size, size, size, 3), np.uint8)
    return images, generator.integers(0, NUM_CLASSES[model_name], batch_size).astype(np.int32)


# --- Ours -------------------------------------------------------------------------------------------------------------


def ours(model_name: str, dtype: str, batch_size: int, steps_per_call: int = 1) -> TakeSteps:
    """Return a function that takes the train steps of a run, with the CPU tuning of a run."""
    tunings.tuned()
    return ours_untuned(model_name, dtype, batch_size, steps_per_call)


def ours_without_ynnpack(model_name: str, dtype: str, batch_size: int) -> TakeSteps:
    """Return a function that takes the train steps of a run, with CPU tuning but without YNNPACK."""
    tunings.without_ynnpack()
    return ours_untuned(model_name, dtype, batch_size)


def ours_keeping_memory(model_name: str, dtype: str, batch_size: int) -> TakeSteps:
    """Return a function that takes the train steps of a run, which keeps freed memory but uses YNNPACK as XLA does."""
    tunings.keeping_memory()
    return ours_untuned(model_name, dtype, batch_size)


def ours_untuned(model_name: str, dtype: str, batch_size: int, steps_per_call: int = 1) -> TakeSteps:
    """Return a function that takes the train steps of a run with --notune_cpu."""
    import jax

    from resnet_jax import config as settings
    from resnet_jax.data.abstract_dataset import AbstractFeed
    from resnet_jax.data.dataset import Dataset
    from resnet_jax.data.feed import Batch
    from resnet_jax.runtime import parallel
    from resnet_jax.training import experiment as experiments
    from resnet_jax.training.experiment import Call
    from resnet_jax.training.state import create_train_state
    from resnet_jax.training.train_step import make_train_step

    images, labels = random_batch(model_name, batch_size)
    config = settings.default()
    config.model.name = VARIANTS.get(model_name, model_name)
    config.model.dtype = dtype
    config.model.stem = STEMS.get(model_name)
    config.dataset.mean, config.dataset.std = MEAN, STD
    config.batch_size = batch_size
    config.num_epochs = NUM_EPOCHS
    config.optimizer.weight_decay = WEIGHT_DECAY

    mesh = parallel.make_mesh()
    feed = AbstractFeed(images.shape[1:], STEPS_PER_EPOCH * batch_size, batch_size, mesh)
    class_names = tuple(str(label) for label in range(NUM_CLASSES[model_name]))
    experiment = experiments.assemble(config, mesh, Dataset(feed, None, class_names))
    inputs = Batch(*parallel.place_rows((images, labels, np.arange(batch_size, dtype=np.int32)), mesh, batch_size))
    state = create_train_state(experiment.model, experiment.optimizer, images.shape[1:], config.seed)
    state = parallel.place(state, parallel.replicated(mesh))
    compiled = make_train_step(experiment, Call(steps_per_call)).lower(state, inputs).compile()

    def take_steps(steps: int) -> float:
        nonlocal state
        for _ in range(steps // steps_per_call):
            state, metrics = compiled(state, inputs)
        return float(jax.device_get(metrics["loss"])[-1])

    return take_steps


def many_steps_a_call(model_name: str, dtype: str, batch_size: int) -> TakeSteps:
    """Return a function that takes the train steps of a run, with as many steps per call as on an accelerator."""
    from resnet_jax.training.experiment import MAX_STEPS_PER_CALL

    return ours(model_name, dtype, batch_size, MAX_STEPS_PER_CALL)


def ours_scoring(model_name: str, dtype: str, batch_size: int) -> TakeSteps:
    """Return a function that scores batches in host memory as a run does, with its CPU tuning. A step is one batch."""
    tunings.tuned()
    import jax

    from resnet_jax.data.in_memory import InMemoryExamples
    from resnet_jax.data.preprocess import Preprocess
    from resnet_jax.evaluation.evaluate import make_evaluate
    from resnet_jax.runtime import parallel

    mesh = parallel.make_mesh()
    model = make_model(model_name, dtype)
    images, labels = random_batch(model_name, batch_size)
    evaluate = make_evaluate(model, Preprocess(MEAN, STD), batch_size, mesh)
    variables = model.init(jax.random.key(0), np.zeros((1, *images.shape[1:]), np.float32), train=False)
    variables = parallel.place(variables, parallel.replicated(mesh))

    @functools.cache
    def examples(steps: int) -> InMemoryExamples:
        rows = np.arange(steps * batch_size) % batch_size
        return InMemoryExamples(images[rows], labels[rows], rows)

    return lambda steps: float(evaluate(variables, examples(steps)).loss.mean())


# --- Flax's examples --------------------------------------------------------------------------------------------------


def plain(model_name: str, dtype: str, batch_size: int) -> TakeSteps:
    """Return a function that takes steps as in Flax's examples/imagenet: no CPU tuning, state not donated."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax.training import train_state

    class TrainState(train_state.TrainState):
        batch_stats: dict

    model = make_model(model_name, dtype)
    images, labels = jax.device_put(random_batch(model_name, batch_size))
    variables = jax.jit(model.init, static_argnames="train")(
        jax.random.key(0), jnp.zeros((1, *images.shape[1:])), train=False
    )
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, NUM_EPOCHS * STEPS_PER_EPOCH)
    sgd = optax.sgd(schedule, MOMENTUM, nesterov=True)
    state = TrainState.create(
        apply_fn=model.apply, params=variables["params"], tx=sgd, batch_stats=variables["batch_stats"]
    )

    @jax.jit
    def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, dict]:
        def loss_fn(params):
            normalized = (images.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)
            logits, updated = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats}, normalized, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            penalty = 0.5 * WEIGHT_DECAY * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
            return loss + penalty, (logits, updated["batch_stats"], loss)

        gradients, (logits, batch_stats, loss) = jax.grad(loss_fn, has_aux=True)(state.params)
        metrics = {
            "loss": loss,
            "top1": jnp.mean(jnp.argmax(logits, -1) == labels),
            "learning_rate": schedule(state.step),
        }
        return state.apply_gradients(grads=gradients, batch_stats=batch_stats), metrics

    def take_steps(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = train_step(state, images, labels)
        return float(metrics["loss"])

    return take_steps


# --- The process ------------------------------------------------------------------------------------------------------


def make_model(model_name: str, dtype: str):
    """Return the Linen module that all contestants but PyTorch's use."""
    import jax.numpy as jnp

    from resnet_jax.models.factory import create_model

    settings = {"stem": STEMS[model_name]} if model_name in STEMS else {}
    return create_model(
        VARIANTS.get(model_name, model_name), NUM_CLASSES[model_name], dtype=jnp.dtype(dtype), **settings
    )


def main() -> None:
    contestant, model_name, dtype, batch_size, warm_up = sys.argv[1:6]
    started = time.perf_counter()
    kind = contestant.partition("_")[0]
    module = importlib.import_module(f"benchmarks.{MODULES[kind]}") if kind in MODULES else sys.modules[__name__]
    take_steps = getattr(module, contestant)(model_name, dtype, int(batch_size))
    loss = take_steps(int(warm_up))
    print(json.dumps({"start_seconds": time.perf_counter() - started, "loss": loss}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        take_steps(int(line))
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
