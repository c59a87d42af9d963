"""All that a run needs before its first step, made from its settings."""

from collections.abc import Callable, Mapping

from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import config_check, parallel
from resnet_jax.data import feeds
from resnet_jax.data.augment import pipeline
from resnet_jax.data.described import describe_inputs
from resnet_jax.data.inputs import Inputs, open_inputs
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.selection import Progress
from resnet_jax.data.sources import Source
from resnet_jax.data.streaming import StreamingFeed
from resnet_jax.data.unreadable import UnreadablePictures
from resnet_jax.errors import UserError
from resnet_jax.from_weights import load_teacher
from resnet_jax.init_from import Pretrained, open_pretrained
from resnet_jax.models import creation
from resnet_jax.run import abstract_variables
from resnet_jax.training import losses, optimizer
from resnet_jax.training.freezing import Freezing
from resnet_jax.training.parts import Setup

MOST_STEPS_PER_CALL = 32  # where it is chosen: enough to hide the launch, few enough to react within a second


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Raises `UserError` for settings that cannot work, before anything is compiled or downloaded."""
    config_check.check(config)
    parallel.check_batch_size(config.batch_size, mesh, config.optimizer.accumulate_steps)
    optimizer.check(config)
    losses.from_config(config.loss)
    feeds.check(config.dataset)
    pipeline.check(config.augment, config.batch_size)
    if config.loss.distill_model:
        creation.create_model(config.loss.distill_model, num_classes=1)
    if creation.from_config(config, num_classes=1).scan_blocks and config.freeze:
        raise UserError("freeze tells blocks apart, and model.scan_blocks does not: set it to False, or freeze nothing")


def prepare(
    config: ConfigDict,
    mesh: Mesh,
    sources: Mapping[str, Source],
    unreadable: UnreadablePictures,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
    begins: bool = True,
) -> Setup:
    """Opens the data, fills in what `config` leaves open, and makes the parts.

    `tell` takes lines for the log. Unless the run `begins`, its settings are known, and mostly it has a checkpoint:
    then weights to begin with are not looked for.
    """
    config = config.copy_and_resolve_references()
    weights = _open_weights(config, tell) if begins else None
    inputs = open_inputs(config, sources, mesh, unreadable, progress, tell)
    return assemble(config, mesh, inputs, weights, tell)


def prepare_described(config: ConfigDict, mesh: Mesh, tell: Callable[[str], None] = lambda line: None) -> Setup:
    """The parts of a run of which the step is to be compiled alone, from what the data set tells of itself.

    The devices of the mesh may be described too, by `topology.describe`.
    """
    config = config.copy_and_resolve_references()
    weights = _open_weights(config, tell)
    return assemble(config, mesh, describe_inputs(config, mesh, tell), weights, tell)


def assemble(
    config: ConfigDict,
    mesh: Mesh,
    inputs: Inputs,
    weights: Pretrained | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Setup:
    """Makes the parts of a run on `inputs`, and fills in what `config` still leaves open."""
    feed = inputs.feed
    preprocess = Preprocess.from_config(config.dataset)
    preprocess.check(feed.image_shape[-1])
    if config.steps_per_call is None:
        config.steps_per_call = _steps_per_call(config.dataset.feed, feed.steps_per_epoch, mesh)
    if config.steps_per_call > 1 and config.dataset.feed == "streaming":
        raise UserError("a streaming feed gives one batch a call: leave steps_per_call unset")
    schedule = optimizer.make_schedule(config, feed.steps_per_epoch)
    model = creation.from_config(config, len(inputs.classes))
    if config.freeze:
        Freezing(config.freeze).check(abstract_variables(model, len(config.dataset.mean))["params"])
    there = mesh if isinstance(feed, ResidentFeed | StreamingFeed) else parallel.make_mesh()
    teacher = load_teacher(config, inputs.classes, there, tell) if config.loss.distill_from else None
    if teacher:
        teacher.preprocess.check(feed.image_shape[-1])
    return Setup(
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
