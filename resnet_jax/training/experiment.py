"""The parts of a run, and what they make together: its state, its batches and its compiled steps."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import config_check
from resnet_jax.data import feed_config
from resnet_jax.data.abstract_dataset import AbstractFeed, describe_abstract_dataset
from resnet_jax.data.augment import pipeline
from resnet_jax.data.dataset import Dataset, open_dataset
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.sources import Source
from resnet_jax.data.streaming import StreamedExamples, StreamingFeed
from resnet_jax.data.subset import Progress
from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.errors import UserError
from resnet_jax.models import factory
from resnet_jax.pretrained.load import Pretrained, load_teacher, open_pretrained
from resnet_jax.runtime import parallel
from resnet_jax.trained_model import TrainedModel, abstract_variables
from resnet_jax.training import losses, memory_estimate, optimizer, state, train_step
from resnet_jax.training.distillation import teacher_of
from resnet_jax.training.freezing import Freezing, merge


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run; `config` is resolved, so that the same parts can be made of it again."""

    config: ConfigDict
    classes: tuple[str, ...]
    mesh: Mesh
    feed: ResidentFeed | StreamingFeed | AbstractFeed
    validation: InMemoryExamples | StreamedExamples | None
    model: nn.Module
    preprocess: Preprocess
    pretrained: Pretrained | None
    teacher: TrainedModel | None
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule

    @property
    def total_steps(self) -> int:
        return self.config.num_epochs * self.feed.steps_per_epoch

    @property
    def sizes(self) -> dict[str, int]:
        """Examples a split."""
        return {"training": self.feed.size, "validation": 0 if self.validation is None else len(self.validation)}

    def batch(self, step: int) -> tuple[jax.Array, jax.Array]:
        """The augmented pictures and the labels that a step is trained on, whole on every device."""
        return self.batch_of(self.feed.inputs(step), step)

    @functools.cached_property
    def batch_of(self) -> train_step.BatchOf:
        """From inputs of the feed and a step to its batch, apart from the train step."""
        return parallel.jit(self._batch_of(), self.mesh)

    def initial_state(self, tell: Callable[[str], None] = lambda line: None) -> state.TrainState:
        """The state before the first step, on all devices; not compiled as a whole, see `state.create`.

        Of pretrained weights it has what fits: `tell` takes a report of that.
        """
        created = self._create_state()
        if self.config.init_from:
            # A run that was stopped before its first checkpoint has not opened them on its way here.
            weights = self.pretrained or open_pretrained(self.config.init_from)
            channels, skip = len(self.config.dataset.mean), self.config.init_skip
            variables, report = weights.variables(self.model, channels, self.classes, skip)
            tell(f"Weights of {self.config.init_from}: {report}")
            if weights.classes is None and "head" in variables["params"]:
                tell("Their head is taken over as well: --config.init_skip=\"('head*',)\" makes a new one.")
            created = state.begin(
                {kind: merge(getattr(created, kind), variables[kind]) for kind in variables},
                self.optimizer,
                self.freezing,
                averages=self.config.ema_decay is not None,
            )
        return parallel.place(created, parallel.replicated(self.mesh))

    def abstract_state(self) -> state.TrainState:
        """Shapes, types and places of the state: what a checkpoint is restored into."""
        return parallel.abstract(jax.eval_shape(self._create_state), parallel.replicated(self.mesh))

    def steps_of_call(self, step: int) -> int:
        """How many steps the call takes that begins with `step`: `steps_per_call`, or 1 of what an epoch has left."""
        left = self.feed.steps_per_epoch - step % self.feed.steps_per_epoch
        return self.config.steps_per_call if self.config.steps_per_call <= left else 1

    def compile_steps(
        self, sizes: Sequence[int] = (), like: state.TrainState | None = None
    ) -> dict[int, train_step.TrainStep]:
        """Train steps by how many steps a call takes: those of `sizes`, unset all that the run takes.

        A state that is there already, `like`, saves making an abstract one.

        Raises `UserError` where they take more memory than the devices have left, beside the state and resident data.
        """
        if not sizes:
            calls, left = divmod(self.feed.steps_per_epoch, self.config.steps_per_call)
            sizes = ([self.config.steps_per_call] if calls else []) + ([1] if left else [])
        compiled = {
            size: memory_estimate.compile_step(self.lower(size, like), self.config, self.mesh) for size in sizes
        }
        arriving = self.feed.abstract_inputs() if self.config.dataset.feed == "streaming" else ()
        for program in compiled.values():
            memory_estimate.check(program, arriving, self.config, self.mesh)
        if self.teacher is None:
            return compiled
        taught = {"teacher_variables": self.teacher.variables}
        return {size: functools.partial(program, **taught) for size, program in compiled.items()}

    def lower(self, steps: int, like: state.TrainState | None = None) -> jax.stages.Lowered:
        """A call of so many train steps, to be compiled for the devices of the mesh, be they there or described."""
        on_all = parallel.replicated(self.mesh)
        arguments = (
            self.abstract_state() if like is None else parallel.abstract(like, on_all),
            self.feed.abstract_inputs(),
        )
        if self.teacher is None:
            return self._train_step(steps).lower(*arguments)
        taught = parallel.abstract(self.teacher.variables, on_all)
        return self._train_step(steps).lower(*arguments, teacher_variables=taught)

    def _train_step(self, steps: int) -> Callable:
        return train_step.make_train_step(
            self.model,
            self._batch_of(),
            self.preprocess,
            losses.from_config(self.config.loss),
            self.optimizer,
            self.schedule,
            self.mesh,
            self.config.seed,
            steps,
            freezing=self.freezing,
            ema_decay=self.config.ema_decay,
            teacher=teacher_of(self.config.loss, self.teacher),
            accumulate_steps=self.config.optimizer.accumulate_steps,
        )

    @property
    def freezing(self) -> Freezing:
        return Freezing(self.config.freeze)

    def _batch_of(self) -> train_step.BatchOf:
        augment = pipeline.from_config(
            self.config.augment,
            len(self.classes),
            fill=self.preprocess.mean_pixel(self.feed.image_shape[-1]),
            crops_resized_on_host=self.config.dataset.feed == "streaming"
            and self.config.dataset.image_size is not None,
            image_size=self.preprocess.image_size,
        )
        return train_step.make_batch(self.feed.take, augment, self.config.seed)

    def _create_state(self) -> state.TrainState:
        # Of grey pictures it may see three channels.
        shape = (*self.feed.image_shape[:2], len(self.config.dataset.mean))
        averages = self.config.ema_decay is not None
        return state.create(self.model, self.optimizer, shape, self.config.seed, self.freezing, averages)


# --- All that a run needs before its first step, made from its settings.


MOST_STEPS_PER_CALL = 32  # where it is chosen: enough to hide the launch, few enough to react within a second


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Raises `UserError` for settings that cannot work, before anything is compiled or downloaded."""
    config_check.check(config)
    parallel.check_batch_size(config.batch_size, mesh, config.optimizer.accumulate_steps)
    optimizer.check(config)
    losses.from_config(config.loss)
    feed_config.check(config.dataset)
    pipeline.check(config.augment, config.batch_size)
    if config.loss.distill_model:
        factory.create_model(config.loss.distill_model, num_classes=1)
    if factory.from_config(config, num_classes=1).scan_blocks and config.freeze:
        raise UserError("freeze tells blocks apart, and model.scan_blocks does not: set it to False, or freeze nothing")


def prepare(
    config: ConfigDict,
    mesh: Mesh,
    sources: Mapping[str, Source],
    unreadable: UnreadableImages,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
    begins: bool = True,
) -> Experiment:
    """Opens the data, fills in what `config` leaves open, and makes the parts.

    `tell` takes lines for the log. Unless the run `begins`, its settings are known, and mostly it has a checkpoint:
    then weights to begin with are not looked for.
    """
    config = config.copy_and_resolve_references()
    weights = _open_weights(config, tell) if begins else None
    inputs = open_dataset(config, sources, mesh, unreadable, progress, tell)
    return assemble(config, mesh, inputs, weights, tell)


def prepare_described(config: ConfigDict, mesh: Mesh, tell: Callable[[str], None] = lambda line: None) -> Experiment:
    """The parts of a run of which the step is to be compiled alone, from what the data set tells of itself.

    The devices of the mesh may be described too, by `topology.describe`.
    """
    config = config.copy_and_resolve_references()
    weights = _open_weights(config, tell)
    return assemble(config, mesh, describe_abstract_dataset(config, mesh, tell), weights, tell)


def assemble(
    config: ConfigDict,
    mesh: Mesh,
    inputs: Dataset,
    weights: Pretrained | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Experiment:
    """Makes the parts of a run on `inputs`, and fills in what `config` still leaves open."""
    feed = inputs.feed
    preprocess = Preprocess.from_config(config.dataset)
    preprocess.check(feed.image_shape[-1])
    if config.steps_per_call is None:
        config.steps_per_call = _steps_per_call(config.dataset.feed, feed.steps_per_epoch, mesh)
    if config.steps_per_call > 1 and config.dataset.feed == "streaming":
        raise UserError("a streaming feed gives one batch a call: leave steps_per_call unset")
    schedule = optimizer.make_schedule(config, feed.steps_per_epoch)
    model = factory.from_config(config, len(inputs.classes))
    if config.freeze:
        Freezing(config.freeze).check(abstract_variables(model, len(config.dataset.mean))["params"])
    there = mesh if isinstance(feed, ResidentFeed | StreamingFeed) else parallel.make_mesh()
    teacher = load_teacher(config, inputs.classes, there, tell) if config.loss.distill_from else None
    if teacher:
        teacher.preprocess.check(feed.image_shape[-1])
    return Experiment(
        config=config,
        classes=inputs.classes,
        mesh=mesh,
        feed=feed,
        validation=inputs.validation,
        model=model,
        preprocess=preprocess,
        pretrained=weights,
        teacher=teacher,
        optimizer=optimizer.make_optimizer(config, schedule, model.stage_sizes),
        schedule=schedule,
    )


def _open_weights(config: ConfigDict, tell: Callable[[str], None]) -> Pretrained | None:
    """The weights to begin with, if there are any; what they tell of their pictures is filled in, and told."""
    if not config.init_from:
        return None
    weights = open_pretrained(config.init_from)
    line = weights.fill(config.dataset)
    if line:
        tell(line)
    return weights


def _steps_per_call(feed: str, steps_per_epoch: int, mesh: Mesh) -> int:
    """One where batches are streamed, and on CPU, for there a loop around convolutions makes them slower; else many."""
    if feed == "streaming" or mesh.devices.flat[0].platform == "cpu":
        return 1
    return _most_steps(steps_per_epoch)


def _most_steps(steps_per_epoch: int) -> int:
    """The most steps, up to a limit, that divide an epoch; if only a few do, the limit, with the rest taken singly."""
    divisors = [steps for steps in range(1, MOST_STEPS_PER_CALL + 1) if steps_per_epoch % steps == 0]
    return divisors[-1] if 4 * divisors[-1] >= MOST_STEPS_PER_CALL else min(MOST_STEPS_PER_CALL, steps_per_epoch)
