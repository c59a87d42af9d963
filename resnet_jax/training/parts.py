"""The parts of a run, and what they make together: its state, its batches and its compiled steps."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import parallel
from resnet_jax.data.augment import pipeline
from resnet_jax.data.described import DescribedFeed
from resnet_jax.data.examples import Examples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.streaming import StreamedExamples, StreamingFeed
from resnet_jax.init_from import Pretrained, open_pretrained
from resnet_jax.run import Run
from resnet_jax.training import losses, memory, state, step
from resnet_jax.training.distillation import teacher_of
from resnet_jax.training.freezing import Freezing, merge


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run; `config` is resolved, so that the same parts can be made of it again."""

    config: ConfigDict
    classes: tuple[str, ...]
    mesh: Mesh
    feed: ResidentFeed | StreamingFeed | DescribedFeed
    validation: Examples | StreamedExamples | None
    model: nn.Module
    preprocess: Preprocess
    pretrained: Pretrained | None
    teacher: Run | None
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
    def batch_of(self) -> step.BatchOf:
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
    ) -> dict[int, step.TrainStep]:
        """Train steps by how many steps a call takes: those of `sizes`, unset all that the run takes.

        A state that is there already, `like`, saves making an abstract one.

        Raises `UserError` where they take more memory than the devices have left, beside the state and resident data.
        """
        if not sizes:
            calls, left = divmod(self.feed.steps_per_epoch, self.config.steps_per_call)
            sizes = ([self.config.steps_per_call] if calls else []) + ([1] if left else [])
        compiled = {size: memory.compile_step(self.lower(size, like), self.config, self.mesh) for size in sizes}
        arriving = self.feed.abstract_inputs() if self.config.dataset.feed == "streaming" else ()
        for program in compiled.values():
            memory.check(program, arriving, self.config, self.mesh)
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
        return step.make_train_step(
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

    def _batch_of(self) -> step.BatchOf:
        augment = pipeline.from_config(
            self.config.augment,
            len(self.classes),
            fill=self.preprocess.mean_pixel(self.feed.image_shape[-1]),
            crops_resized_on_host=self.config.dataset.feed == "streaming"
            and self.config.dataset.image_size is not None,
            image_size=self.preprocess.image_size,
        )
        return step.make_batch(self.feed.take, augment, self.config.seed)

    def _create_state(self) -> state.TrainState:
        # Of grey pictures it may see three channels.
        shape = (*self.feed.image_shape[:2], len(self.config.dataset.mean))
        averages = self.config.ema_decay is not None
        return state.create(self.model, self.optimizer, shape, self.config.seed, self.freezing, averages)
