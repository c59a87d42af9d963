"""What is compared, each in a process of its own: train steps (ours, Flax's examples', PyTorch's), and scoring.

    python -m benchmarks.contestants ours resnet20 float32 128 2    # with 2 steps to warm up

Every train step is of the same network on a batch of uint8 pictures that lies on the device: it normalises, takes loss,
accuracy and gradients, and updates by SGD with Nesterov momentum and weight decay. The process says when it is ready;
for each number that it is given on standard input it takes so many steps, and answers with the seconds.
"""

import functools
import importlib
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks import tunings

CLASSES = {"resnet20": 10, "resnet18": 10, "resnet50": 1000}
SIDES = {"resnet20": 32, "resnet18": 32, "resnet50": 224}  # pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
STEPS_PER_EPOCH, NUM_EPOCHS = 400, 10  # of the schedule

Take = Callable[[int], float]  # so many steps, and returns the last loss


def pictures(network: str, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [batch, side, side, 3] and int32 labels [batch]."""
    random, side = np.random.default_rng(0), SIDES[network]
    images = random.integers(0, 256, (batch_size, side, side, 3), np.uint8)
    return images, random.integers(0, CLASSES[network], batch_size).astype(np.int32)


def ours(network: str, dtype: str, batch_size: int, steps_per_call: int = 1) -> Take:
    """The step of a run, with what a run sets for the CPU."""
    tunings.tuned()
    return ours_untuned(network, dtype, batch_size, steps_per_call)


def ours_without_ynnpack(network: str, dtype: str, batch_size: int) -> Take:
    """The same, but that all is XLA's own."""
    tunings.without_ynnpack()
    return ours_untuned(network, dtype, batch_size)


def ours_keeping_memory(network: str, dtype: str, batch_size: int) -> Take:
    """The same, but that YNNPACK takes what XLA hands it by default."""
    tunings.keeping_memory()
    return ours_untuned(network, dtype, batch_size)


def ours_untuned(network: str, dtype: str, batch_size: int, steps_per_call: int = 1) -> Take:
    """The step of a run with --notune_cpu."""
    import jax

    from resnet_jax import config as settings
    from resnet_jax.data.preprocess import Preprocess
    from resnet_jax.runtime import parallel
    from resnet_jax.training import losses, optimizer, state
    from resnet_jax.training.train_step import make_train_step

    config = settings.default()
    config.num_epochs, config.optimizer.weight_decay = NUM_EPOCHS, WEIGHT_DECAY
    mesh, net = parallel.make_mesh(), make_model(network, dtype)
    schedule = optimizer.make_schedule(config, STEPS_PER_EPOCH)
    sgd = optimizer.make_optimizer(config, schedule, net.stage_sizes)
    images, labels = pictures(network, batch_size)
    inputs = parallel.place_rows((images, labels), mesh, batch_size)
    train_step = make_train_step(
        net,
        lambda inputs, step: inputs,
        Preprocess(MEAN, STD),
        losses.from_config(config.loss),
        sgd,
        schedule,
        mesh,
        config.seed,
        steps_per_call,
    )
    first = state.create(net, sgd, images.shape[1:], config.seed)
    held = [parallel.place(first, parallel.replicated(mesh))]
    compiled = train_step.lower(held[0], inputs).compile()

    def take(steps: int) -> float:
        for _ in range(steps // steps_per_call):
            held[0], metrics = compiled(held[0], inputs)
        return float(jax.device_get(metrics["loss"])[-1])

    return take


def many_steps_a_call(network: str, dtype: str, batch_size: int) -> Take:
    """The same with as many steps in a call as a run takes on an accelerator."""
    from resnet_jax.training.experiment import MOST_STEPS_PER_CALL

    return ours(network, dtype, batch_size, MOST_STEPS_PER_CALL)


def ours_scoring(network: str, dtype: str, batch_size: int) -> Take:
    """The evaluation of a run, with what a run sets for the CPU; a step is a batch in host memory."""
    tunings.tuned()
    import jax

    from resnet_jax.data.in_memory import InMemoryExamples
    from resnet_jax.data.preprocess import Preprocess
    from resnet_jax.evaluation.evaluate import make_evaluate
    from resnet_jax.runtime import parallel

    mesh, net = parallel.make_mesh(), make_model(network, dtype)
    images, labels = pictures(network, batch_size)
    evaluate = make_evaluate(net, Preprocess(MEAN, STD), batch_size, mesh)
    variables = net.init(jax.random.key(0), np.zeros((1, *images.shape[1:]), np.float32), train=False)
    placed = parallel.place(variables, parallel.replicated(mesh))

    @functools.cache
    def examples(steps: int) -> InMemoryExamples:
        rows = np.arange(steps * batch_size) % batch_size
        return InMemoryExamples(images[rows], labels[rows], rows)

    return lambda steps: float(evaluate(placed, examples(steps)).loss.mean())


def plain(network: str, dtype: str, batch_size: int) -> Take:
    """A step as in Flax's examples/imagenet: nothing is set for the CPU, and the old state is not donated."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax.training import train_state

    class TrainState(train_state.TrainState):
        batch_stats: dict

    net = make_model(network, dtype)
    images, labels = jax.device_put(pictures(network, batch_size))
    variables = jax.jit(net.init, static_argnames="train")(
        jax.random.key(0), jnp.zeros((1, *images.shape[1:])), train=False
    )
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, NUM_EPOCHS * STEPS_PER_EPOCH)
    sgd = optax.sgd(schedule, MOMENTUM, nesterov=True)
    created = TrainState.create(
        apply_fn=net.apply, params=variables["params"], tx=sgd, batch_stats=variables["batch_stats"]
    )

    @jax.jit
    def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, dict]:
        def loss_of(params):
            normalised = (images.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)
            logits, updated = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats}, normalised, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            penalty = 0.5 * WEIGHT_DECAY * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
            return loss + penalty, (logits, updated["batch_stats"], loss)

        gradients, (logits, batch_stats, loss) = jax.grad(loss_of, has_aux=True)(state.params)
        metrics = {"loss": loss, "top1": jnp.mean(jnp.argmax(logits, -1) == labels), "rate": schedule(state.step)}
        return state.apply_gradients(grads=gradients, batch_stats=batch_stats), metrics

    held = [created]

    def take(steps: int) -> float:
        for _ in range(steps):
            held[0], metrics = train_step(held[0], images, labels)
        return float(metrics["loss"])

    return take


def make_model(network: str, dtype: str):
    import jax.numpy as jnp

    from resnet_jax.models.factory import create_model

    stem = {"stem": "cifar"} if SIDES[network] == 32 else {}
    return create_model(network, CLASSES[network], dtype=jnp.dtype(dtype), **stem)


def main() -> None:
    name, network, dtype, batch_size = sys.argv[1:5]
    started = time.perf_counter()
    module = importlib.import_module("benchmarks.pytorch") if name.startswith("torch") else sys.modules[__name__]
    take = getattr(module, name)(network, dtype, int(batch_size))
    loss = take(int(sys.argv[5]))
    print(json.dumps({"start_seconds": time.perf_counter() - started, "loss": loss}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        take(int(line))
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
