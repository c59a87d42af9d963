"""Clients of a federated run: training with the ordinary train step, from the model of the server.

The step numbers of the train step are unique for each round and client; see `data.sampling.ClientSampler`. So what a
client does is a function of the model that it gets, the seed, the round and its number.
"""

import copy
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resnet_jax.config import default
from resnet_jax.data.client_folders import ClientImages
from resnet_jax.data.splits import NO_SPLIT
from resnet_jax.errors import UserError
from resnet_jax.models import factory
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.training.experiment import Experiment, build
from resnet_jax.training.experiment import check as check_experiment
from resnet_jax.training.federated_experiment import check as check_federated
from resnet_jax.training.federated_experiment import from_experiment
from resnet_jax.training.state import Metrics, TrainState, create_train_state
from resnet_jax.training.train_step import SINGLE_STEP, compile_train_steps

# The `federated` settings that apply to a client itself. All others are for the engine that connects the machines.
OWN_SETTINGS = ("partition", "clients", "local_epochs", "local_steps", "proximal")


class ClientTrainer:
    """Trains one client after another on a device, with the ordinary train step.

    Args:
      experiment: the experiment of a client.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._train_step = compile_train_steps(experiment, [SINGLE_STEP])[SINGLE_STEP]
        self._initial_state = parallel.jit(self._make_state, experiment.mesh)
        self._pace = parallel.Pace()

    def begin(self, variables: Mapping, visit: int) -> None:
        """Begin a visit with the variables `{"params": ..., "batch_stats": ...}`, which may be on other devices."""
        self.step = visit * self._experiment.feed.steps_per_epoch
        replicated = parallel.replicated(self._experiment.mesh)
        self._state = self._initial_state(jax.device_put(variables, replicated), self.step)
        self._metrics: list[Metrics] = []

    def take_step(self) -> None:
        """Take the next step."""
        inputs = self._experiment.feed.inputs(self.step)
        self._state, metrics = self._train_step(self._state, inputs)
        self._pace(metrics)
        self._metrics.append(metrics)
        self.step += 1

    def finish(self) -> tuple[dict, dict[str, float]]:
        """Return the variables after the last step, and the means of the metrics over the steps."""
        metrics = parallel.fetch(self._metrics)
        means = {name: float(np.mean([step[name] for step in metrics])) for name in metrics[0]}
        means["learning_rate"] = float(metrics[0]["learning_rate"][0])
        return self._state.online_variables, means

    def _make_state(self, variables: Mapping, step: jax.Array) -> TrainState:
        """Return the state at a step, with a new optimizer state whose schedules are at this step.

        The variables are copied, because the train step overwrites its state.
        """
        variables = jax.tree.map(jnp.copy, variables)
        trainable, _ = self._experiment.freezing.split(variables["params"])
        opt_state = at_step(self._experiment.optimizer.init(trainable), step)
        return TrainState(
            jnp.asarray(step, jnp.int32), variables["params"], variables["batch_stats"], opt_state, ema={}
        )


class LocalClient:
    """A client whose examples lie on this machine, for an engine that connects real machines; see examples/flower/.

    It trains as the client of the same number does in a simulation with the same settings, if `federated.local_steps`,
    `dataset.bit_depth`, `dataset.mean` and `dataset.std` are set. The engine decides what happens to the model on its
    way to the server and on the server, so settings for that are refused.

    Args:
      config: the settings of the run; `federated.clients` is the number of all clients.
      client: the number of this client, from 0.
      source: its examples.

    Raises:
      UserError: if settings and examples do not go together, or if a setting would have no effect.
    """

    def __init__(self, config: ConfigDict, client: int, source: ClientImages):
        config = config.copy_and_resolve_references()
        _check_engine_settings(config)
        if config.federated.partition != "directories":
            raise UserError(
                f"federated.partition ({config.federated.partition}) must be directories on real machines, where each "
                "client has its own images. Set federated.partition=directories."
            )
        mesh = parallel.make_mesh(jax.local_devices()[:1])
        check_experiment(config, mesh)
        check_federated(config)
        config.dataset.validation_split = config.dataset.test_split = NO_SPLIT
        source = copy.copy(source)
        source.directories = np.full(len(source), client, np.int32)
        reporter = Reporter(active=False, max_unreadable=config.dataset.max_unreadable)
        experiment = from_experiment(build(config, mesh, {"train": source}, reporter, is_new=False))
        self._visits = experiment.sampler.clients
        self._client = client
        self._trainer = ClientTrainer(experiment.on_devices[0])
        self.num_examples = len(source)
        self.num_steps = experiment.sampler.num_steps(client)

    def train(self, variables: Mapping, round_index: int) -> tuple[dict, dict[str, float]]:
        """Train the model of the server in a round.

        Args:
          variables: `{"params": ..., "batch_stats": ...}`, as NumPy arrays.
          round_index: the number of the round, from 0.

        Returns:
          The variables after the last step, as NumPy arrays, and the means of the metrics over the steps.
        """
        self._trainer.begin(variables, round_index * self._visits + self._client)
        for _ in range(self.num_steps):
            self._trainer.take_step()
        trained, metrics = self._trainer.finish()
        return parallel.fetch(trained), metrics


def initial_variables(config: ConfigDict, num_classes: int) -> dict:
    """Return the model with which a run starts, `{"params": ..., "batch_stats": ...}`, without opening its data.

    Args:
      config: the settings; `dataset.image_size` and `dataset.mean` are set.
      num_classes: the number of classes.

    Raises:
      UserError: if the run would start from other weights or from its images, or as `LocalClient` does.
    """
    _check_engine_settings(config)
    model = factory.from_config(config, num_classes)
    if config.init_from is not None or model.stem == "whitening":
        raise UserError("on real machines, a run starts from new weights. Unset init_from, and choose another stem.")
    image_shape = (config.dataset.image_size, config.dataset.image_size, len(config.dataset.mean))
    state = create_train_state(model, optax.identity(), image_shape, config.seed)
    return parallel.fetch(state.online_variables)


def _check_engine_settings(config: ConfigDict) -> None:
    """Raise `UserError` if a setting in `federated` would have no effect outside a simulation."""
    for name, value in default().federated.items():
        if name not in OWN_SETTINGS and config.federated[name] != value:
            raise UserError(
                f"federated.{name} works only in a simulation; on real machines, the engine that connects them decides "
                "about it. Unset it."
            )


def at_step(opt_state: optax.OptState, step: jax.Array) -> optax.OptState:
    """Return the optimizer state with all its schedules at a step. Adam's count of its averages is not a schedule."""

    def is_schedule(node) -> bool:
        return getattr(node, "_fields", ()) == ("count",)

    def set_count(node):
        return node._replace(count=jnp.asarray(step, jnp.int32)) if is_schedule(node) else node

    return jax.tree.map(set_count, opt_state, is_leaf=is_schedule)
