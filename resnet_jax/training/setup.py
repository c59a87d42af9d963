"""All that a run needs before its first step, made from its settings."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax import parallel
from resnet_jax.data.examples import Examples, Progress, read_training
from resnet_jax.data.preprocess import Preprocess, channel_statistics
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.sources import Source
from resnet_jax.errors import UserError
from resnet_jax.models import variants
from resnet_jax.training import losses, optimizer, state, step

MOST_STEPS_PER_CALL = 32  # where it is chosen: enough to hide the launch, few enough to react within a second


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run; `config` is resolved, so that the same parts can be made of it again."""

    config: ConfigDict
    classes: tuple[str, ...]
    mesh: Mesh
    feed: ResidentFeed
    validation: Examples | None
    model: nn.Module
    preprocess: Preprocess
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule

    @property
    def total_steps(self) -> int:
        return self.config.num_epochs * self.feed.steps_per_epoch

    @property
    def sizes(self) -> dict[str, int]:
        """Examples a split."""
        return {"training": self.feed.size, "validation": 0 if self.validation is None else len(self.validation)}

    def first_batch(self) -> tuple[jax.Array, jax.Array]:
        """The augmented pictures, uint8 [batch, height, width, channels], and the labels of the first step."""
        batch_of = jax.jit(self._batch_of(), out_shardings=parallel.replicated(self.mesh))
        return batch_of(self.feed.epoch(0), 0)

    def initial_state(self) -> state.TrainState:
        """The state before the first step, on all devices."""
        return jax.jit(self._create_state, out_shardings=parallel.replicated(self.mesh))()

    def abstract_state(self) -> state.TrainState:
        """Shapes, types and places of the state: what a checkpoint is restored into."""
        return parallel.abstract(jax.eval_shape(self._create_state), parallel.replicated(self.mesh))

    def compile_steps(self) -> dict[int, step.TrainStep]:
        """Train steps by how many steps a call takes: `steps_per_call`, and 1 for what an epoch has left."""
        calls, left = divmod(self.feed.steps_per_epoch, self.config.steps_per_call)
        sizes = ([self.config.steps_per_call] if calls else []) + ([1] if left else [])
        arguments = self.abstract_state(), self.feed.epoch(0)
        return {size: self._train_step(size).lower(*arguments).compile() for size in sizes}

    def _train_step(self, steps: int) -> Callable:
        return step.make_train_step(
            self.model,
            self._batch_of(),
            self.preprocess,
            losses.from_config(self.config.loss),
            self.optimizer,
            self.schedule,
            self.mesh,
            steps,
        )

    def _batch_of(self) -> step.BatchOf:
        return step.make_batch(self.config, self.feed.image_shape, self.mesh)

    def _create_state(self) -> state.TrainState:
        return state.create(self.model, self.optimizer, self.feed.image_shape, self.config.seed)


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Raises `UserError` for settings that cannot work, before anything is compiled or downloaded."""
    settings.check(config)
    parallel.check_batch_size(config.batch_size, mesh)
    optimizer.check(config)
    losses.from_config(config.loss)
    variants.from_config(config, num_classes=1)


def prepare(config: ConfigDict, mesh: Mesh, sources: Mapping[str, Source], progress: Progress) -> Setup:
    """Reads the data, fills in what `config` leaves open, and makes the parts."""
    config = config.copy_and_resolve_references()
    classes = _common_classes(sources)
    train, validation = read_training(config.dataset, sources, progress)
    feed = ResidentFeed(train, config.batch_size, config.seed, mesh)
    if config.dataset.mean is None:
        config.dataset.mean, config.dataset.std = channel_statistics(train.images)
    elif len(config.dataset.mean) != feed.image_shape[-1]:
        channels, given = feed.image_shape[-1], len(config.dataset.mean)
        raise UserError(f"dataset.mean and dataset.std have {given} numbers, but the pictures {channels} channels")
    if config.steps_per_call is None:
        on_cpu = mesh.devices.flat[0].platform == "cpu"  # where a loop around convolutions makes them slower
        config.steps_per_call = 1 if on_cpu else _steps_per_call(feed.steps_per_epoch)
    schedule = optimizer.make_schedule(config, feed.steps_per_epoch)
    return Setup(
        config=config,
        classes=classes,
        mesh=mesh,
        feed=feed,
        validation=validation,
        model=variants.from_config(config, len(classes)),
        preprocess=Preprocess(config.dataset.mean, config.dataset.std),
        optimizer=optimizer.make_optimizer(config, schedule),
        schedule=schedule,
    )


def _common_classes(sources: Mapping[str, Source]) -> tuple[str, ...]:
    """The names of the classes, which must be the same in all splits: labels are numbers."""
    classes = {split: tuple(source.classes) for split, source in sources.items()}
    if len(set(classes.values())) > 1:
        sizes = ", ".join(f"{len(names)} in {split}" for split, names in classes.items())
        raise UserError(f"the splits of the data set have different classes ({sizes}): give all of them the same")
    return next(iter(classes.values()))


def _steps_per_call(steps_per_epoch: int) -> int:
    """The most steps, up to a limit, that divide an epoch; if only a few do, the limit, with the rest taken singly."""
    divisors = [steps for steps in range(1, MOST_STEPS_PER_CALL + 1) if steps_per_epoch % steps == 0]
    return divisors[-1] if 4 * divisors[-1] >= MOST_STEPS_PER_CALL else min(MOST_STEPS_PER_CALL, steps_per_epoch)
