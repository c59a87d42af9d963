"""Federated training as a run: a step of the loop is a round, in which clients train and the server averages.

`FederatedExperiment` is the experiment that the loop sees, and `Round` is its train step. Each client trains with the
ordinary train step, whose step numbers are unique for each round and client; see `data.sampling.ClientSampler`. So a
round is a function of the state, the seed and its number, and a killed run repeats it exactly.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resnet_jax import randomness
from resnet_jax.data import partition
from resnet_jax.data.feed import Feed
from resnet_jax.data.sampling import ClientSampler
from resnet_jax.data.sources import Source
from resnet_jax.data.splits import NO_SPLIT
from resnet_jax.errors import UserError, unknown_name
from resnet_jax.federated import compression, privacy
from resnet_jax.federated.participation import participation
from resnet_jax.federated.server import SERVERS, add_proximal_gradient, make_server_optimizer
from resnet_jax.models import factory
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.training.experiment import Experiment, build
from resnet_jax.training.experiment import check as check_experiment
from resnet_jax.training.freezing import merge
from resnet_jax.training.recalibration import make_batch_statistics
from resnet_jax.training.state import TrainState, create_train_state
from resnet_jax.training.train_step import Metrics, compile_train_steps

BATCH_NORMS = ("averaged", "local", "recomputed")  # values of `federated.batch_norm`
STATISTICS_STEPS = 10  # batches on which each client measures batch statistics, with "recomputed"

# Settings that do not work in a federated run, and the values that they must have.
UNSUPPORTED = {
    "augment.alternating_flip": False,
    "dataset.sampler": "uniform",
    "ema_decay": None,
    "pretrain.method": None,
}


def check(config: ConfigDict) -> None:
    """Raise `UserError` if the settings do not work in a federated run."""
    federated = config.federated
    partition.check(federated)
    if federated.partition is None:
        return
    for name, choices in (
        ("server", SERVERS),
        ("compression", compression.COMPRESSIONS),
        ("batch_norm", BATCH_NORMS),
    ):
        if federated[name] not in choices:
            raise unknown_name(f"federated.{name}", federated[name], choices)
    for key, value in UNSUPPORTED.items():
        section, _, name = key.rpartition(".")
        if (config[section] if section else config)[name] != value:
            raise UserError(f"{key} does not work in a federated run. Set {key}={value!r}.")
    if federated.noise_multiplier and federated.clip_norm is None:
        raise UserError("federated.noise_multiplier needs bounded updates. Set federated.clip_norm.")
    if federated.noise_multiplier:
        privacy.epsilon(federated.noise_multiplier, federated.share, 1, federated.delta)  # The package is installed.


# --- The experiment ---------------------------------------------------------------------------------------------------


class RoundFeed:
    """The data of a federated run as the loop sees it: a step is a round. The clients have feeds of their own."""

    supports_several_steps = False
    steps_per_epoch = 1
    max_prefetched = 0

    def __init__(self, feeds: Sequence[Feed], sampler: ClientSampler):
        self._feeds, self._sampler = feeds, sampler
        self.image_shape, self.size, self.crops_on_host = feeds[0].image_shape, feeds[0].size, feeds[0].crops_on_host

    def inputs(self, step: int) -> int:
        """Return the number of the round."""
        return step

    def positions(self, step: int) -> np.ndarray:
        """Return the examples of all clients in a round, in the order of their use: int64 [n]."""
        first = step * self._sampler.clients
        return np.concatenate([self._sampler(visit) for visit in range(first, first + self._sampler.clients)])

    def close(self) -> None:
        """Stop the workers of all clients."""
        for feed in self._feeds:
            feed.close()


@dataclasses.dataclass(frozen=True)
class FederatedExperiment(Experiment):
    """An experiment whose step is a round, whose state is that of the server, and whose optimizer is the server's.

    Its optimizer state is what `with_local_batch_norms` makes of it.

    Attributes:
      on_devices: the experiment of a client, for each device. Its steps are those of the client.
    """

    on_devices: tuple[Experiment, ...] = ()

    @property
    def sampler(self) -> ClientSampler:
        """The examples of each client."""
        assert self.clients is not None
        return self.clients

    def label_shares(self) -> np.ndarray | None:
        """Return the share of each class among the examples of each client that has any, float [clients, classes].

        Return None if images have any number of labels.
        """
        if self.label_sets is not None:
            return None
        labels = [self.sampler.labels[part] for part in self.sampler.parts if len(part)]
        return np.array([np.bincount(part, minlength=len(self.classes)) / len(part) for part in labels])

    def batch_at(self, step: int) -> tuple[jax.Array, jax.Array]:
        """Return the augmented images and the labels of the first step of the first client in a round."""
        first_visit = step * self.sampler.clients
        return self.on_devices[0].batch_at(first_visit * self.sampler.steps_per_visit)

    def _whitening_kernel(self) -> np.ndarray:
        return self.on_devices[0]._whitening_kernel()

    def _create_state(self) -> TrainState:
        return with_local_batch_norms(super()._create_state(), self.config.federated)


def from_experiment(experiment: Experiment) -> FederatedExperiment:
    """Return the federated experiment for one that `experiment.build` has built.

    Raises:
      UserError: if the run has several processes, or if the model does not fit the settings.
    """
    if jax.process_count() > 1:
        raise UserError("a federated run has one process, which may use several devices. Start a single process.")
    federated = experiment.config.federated
    assert experiment.clients is not None
    if federated.batch_norm != "averaged" and experiment.model.norm != "batch_norm":
        raise UserError(
            f"federated.batch_norm={federated.batch_norm} works only with batch_norm, and the model has "
            f"{experiment.model.norm}. Set federated.batch_norm=averaged."
        )
    if federated.noise_multiplier and experiment.model.norm == "batch_norm":
        raise UserError("federated.noise_multiplier does not protect batch statistics. Set model.norm=group_norm.")
    optimizer = experiment.optimizer
    if federated.proximal:
        optimizer = optax.chain(add_proximal_gradient(federated.proximal), optimizer)
    at_a_time = max(1, math.ceil(federated.share * experiment.clients.clients))
    on_devices = tuple(
        dataclasses.replace(
            experiment,
            mesh=parallel.make_mesh([device]),
            feed=experiment.feed.on_device(device),
            optimizer=optimizer,
        )
        for device in experiment.mesh.devices.flat[:at_a_time]
    )
    fields = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(Experiment)}
    fields["feed"] = RoundFeed([client.feed for client in on_devices], experiment.clients)
    fields["optimizer"] = make_server_optimizer(federated)
    return FederatedExperiment(**fields, on_devices=on_devices)


def with_local_batch_norms(state: TrainState, federated: ConfigDict) -> TrainState:
    """Return the initial state of a run, with the optimizer state {"server": that of the server, "local": ...}.

    With `federated.batch_norm="local"`, "local" holds the batch normalization of each client, as arrays [clients, ...]
    in the trees of `batch_norms`; otherwise it is {}.
    """
    local = {}
    if federated.batch_norm == "local":
        shared = batch_norms(state.online_variables)
        local = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], federated.clients, axis=0), shared)
    return dataclasses.replace(state, opt_state={"server": state.opt_state, "local": local})


def batch_norms(variables: Mapping) -> dict:
    """Return the variables of the modules that have batch statistics: `{"params": ..., "batch_stats": ...}`."""

    def select(params: Mapping, batch_stats: Mapping) -> Mapping:
        if not all(isinstance(value, Mapping) for value in batch_stats.values()):
            return params  # of a module
        return {name: select(params[name], stats) for name, stats in batch_stats.items() if name in params}

    return {
        "params": select(variables["params"], variables["batch_stats"]),
        "batch_stats": variables["batch_stats"],
    }


# --- A client ---------------------------------------------------------------------------------------------------------


class ClientTrainer:
    """Trains one client after another on a device, with the ordinary train step.

    Args:
      experiment: the experiment of a client.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._train_step = compile_train_steps(experiment, [1])[1]
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

    It trains as the client of the same number does in a simulation with the same settings, if `federated.local_steps`
    and `dataset.mean` and `std` are set.

    Args:
      config: the settings of the run; `federated.clients` is the number of all clients.
      client: the number of this client, from 0.
      source: its examples.

    Raises:
      UserError: if settings and examples do not go together.
    """

    def __init__(self, config: ConfigDict, client: int, source: Source):
        config = config.copy_and_resolve_references()
        mesh = parallel.make_mesh(jax.local_devices()[:1])
        check_experiment(config, mesh)
        check(config)
        config.dataset.validation_split = config.dataset.test_split = NO_SPLIT
        source.directories = np.full(len(source), client)  # type: ignore[attr-defined]  # an optional member
        reporter = Reporter(active=False, max_unreadable=config.dataset.max_unreadable)
        experiment = from_experiment(build(config, mesh, {"train": source}, reporter, is_new=False))
        self._visits = experiment.sampler.clients
        self._client, self._trainer = client, ClientTrainer(experiment.on_devices[0])
        self.num_examples, self.num_steps = len(source), experiment.sampler.num_steps(client)

    def train(self, variables: Mapping, number: int) -> tuple[dict, dict[str, float]]:
        """Train the model of the server in a round.

        Args:
          variables: `{"params": ..., "batch_stats": ...}`, as NumPy arrays.
          number: the number of the round, from 0.

        Returns:
          The variables after the last step, as NumPy arrays, and the means of the metrics over the steps.
        """
        self._trainer.begin(variables, number * self._visits + self._client)
        for _ in range(self.num_steps):
            self._trainer.take_step()
        trained, metrics = self._trainer.finish()
        return parallel.fetch(trained), metrics


def initial_variables(config: ConfigDict, num_classes: int) -> dict:
    """Return the model with which a run starts, `{"params": ..., "batch_stats": ...}`, without opening its data.

    Args:
      config: the settings; `dataset.image_size` and `dataset.mean` are set.
      num_classes: the number of classes.
    """
    model = factory.from_config(config, num_classes)
    image_shape = (config.dataset.image_size, config.dataset.image_size, len(config.dataset.mean))
    state = create_train_state(model, optax.identity(), image_shape, config.seed)
    return parallel.fetch(state.online_variables)


def at_step(opt_state: optax.OptState, step: jax.Array) -> optax.OptState:
    """Return the optimizer state with all its schedules at a step. Adam's count of its averages is not a schedule."""

    def is_schedule(node) -> bool:
        return getattr(node, "_fields", ()) == ("count",)

    def set_count(node):
        return node._replace(count=jnp.asarray(step, jnp.int32)) if is_schedule(node) else node

    return jax.tree.map(set_count, opt_state, is_leaf=is_schedule)


# --- A round ----------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a client sends to the server.

    Attributes:
      client: its number.
      variables: its model, on all devices, as the server decodes it.
      squared_distance: the squared distance of its parameters from those of the server.
      weight: its weight in the average.
      metrics: the means of its metrics over its steps.
    """

    client: int
    variables: dict
    squared_distance: float
    weight: int
    metrics: dict[str, float]


class Round:
    """Takes a round: trains the clients, averages their models, and updates the model of the server.

    A call maps (state, number of the round) to (next state, metrics), like a compiled train step, but keeps the state
    that it is given. Clients train at the same time if there are several devices, one per device.

    Args:
      experiment: the federated run.
      reporter: shows the progress.
      between_steps: is called after each step of the clients, and may raise an exception to stop the round.
    """

    def __init__(self, experiment: FederatedExperiment, reporter: Reporter, between_steps: Callable[[], None]):
        self._experiment, self._reporter, self._between_steps = experiment, reporter, between_steps
        self._federated, self._seed = experiment.config.federated, experiment.config.seed
        self._sampler = experiment.sampler
        self._num_steps = [self._sampler.num_steps(client) for client in range(self._sampler.clients)]
        self._invited_on_average = self._federated.share * sum(steps > 0 for steps in self._num_steps)
        self._trainers = [ClientTrainer(client) for client in experiment.on_devices]
        jit = functools.partial(parallel.jit, mesh=experiment.mesh)
        self._decode = jit(self._encode_and_decode)
        self._add_to_mean = jit(lambda mean, value, share: jax.tree.map(lambda m, v: m + (v - m) * share, mean, value))
        self._update_server = jit(self._server_update)
        self._store_local = jit(
            lambda stacked, own, client: jax.tree.map(lambda all_, leaf: all_.at[client].set(leaf), stacked, own)
        )
        self._load_local = jit(lambda stacked, client: jax.tree.map(lambda leaf: leaf[client], stacked))
        if self._federated.batch_norm == "recomputed":
            self._batch_statistics = make_batch_statistics(experiment.on_devices[0])

    def __call__(self, state: TrainState, number: int) -> tuple[TrainState, Metrics]:
        with jax.transfer_guard("allow"):  # Models move between the devices.
            return self._take(state, number)

    def _take(self, state: TrainState, number: int) -> tuple[TrainState, Metrics]:
        federated = self._federated
        started = time.monotonic()
        chosen = participation(federated, self._seed, number, self._num_steps)

        # The clients train. The average of their models is updated with each one.
        answers: list[Answer] = []
        mean: dict = {}
        total_weight = 0
        local = state.opt_state["local"]
        for answer in self._train_clients(state, number, chosen.steps):
            total_weight += answer.weight
            share = answer.weight / total_weight
            mean = self._add_to_mean(mean, answer.variables, share) if mean else answer.variables
            if local:
                local = self._store_local(local, batch_norms(answer.variables), answer.client)
            answers.append(answer._replace(variables={}))

        # The server follows the average.
        params, server_state, update_norm = self._update_server(
            state.params,
            state.opt_state["server"],
            mean["params"],
            len(answers) / self._invited_on_average,
            randomness.key(self._seed, Use.PRIVACY, number),
        )
        batch_stats = mean["batch_stats"]
        if federated.batch_norm == "recomputed":
            batch_stats = self._recompute_statistics({"params": params, "batch_stats": batch_stats}, number, answers)
        next_state = TrainState(state.step + 1, params, batch_stats, {"server": server_state, "local": local}, {})

        metrics = self._means(answers, float(parallel.fetch(update_norm)))
        metrics |= self._bytes(state, chosen.invited, len(answers))
        if federated.noise_multiplier:
            metrics["epsilon"] = privacy.epsilon(
                federated.noise_multiplier, federated.share, number + 1, federated.delta
            )
        images = self._sampler.batch_size * sum(chosen.steps.values())
        metrics["images_per_second"] = images / (time.monotonic() - started)
        replicated = parallel.replicated(self._experiment.mesh)
        return next_state, {
            name: parallel.place(np.array([value], np.float32), replicated) for name, value in metrics.items()
        }

    def _train_clients(self, state: TrainState, number: int, steps: Mapping[int, int]) -> Iterable[Answer]:
        """Train the clients, as many at a time as there are devices, and yield their answers in order."""
        show_progress = self._reporter.counter(f"round {number + 1}, steps of clients")
        steps_taken, total_steps = 0, sum(steps.values())
        for first in range(0, len(steps), len(self._trainers)):
            clients = list(steps)[first : first + len(self._trainers)]
            trainers = dict(zip(clients, self._trainers, strict=False))
            for client, trainer in trainers.items():
                trainer.begin(self._variables_for(state, client), self._visit(number, client))
            for step in range(max(steps[client] for client in clients)):
                for client, trainer in trainers.items():
                    if step < steps[client]:
                        trainer.take_step()
                        steps_taken += 1
                self._between_steps()
                show_progress(steps_taken, total_steps)
            for client, trainer in trainers.items():
                yield self._answer(state, number, client, trainer)

    def _visit(self, number: int, client: int) -> int:
        return number * self._sampler.clients + client

    def _variables_for(self, state: TrainState, client: int) -> dict:
        """Return the model that a client receives: that of the server, with the batch normalization of the client."""
        local = state.opt_state["local"]
        return merge(state.online_variables, self._load_local(local, client)) if local else state.online_variables

    def _answer(self, state: TrainState, number: int, client: int, trainer: ClientTrainer) -> Answer:
        """Return the answer of a client that has taken its steps.

        Raises:
          UserError: if its loss is not finite.
        """
        variables, metrics = trainer.finish()
        if not math.isfinite(metrics["loss"]):
            raise UserError(
                f"the loss of client {client} became {metrics['loss']} in round {number + 1}. The rounds before it are "
                "saved. To train further, start a new --workdir with a lower optimizer.learning_rate, or set "
                "optimizer.grad_clip."
            )
        variables = jax.device_put(variables, parallel.replicated(self._experiment.mesh))
        key = randomness.key(self._seed, Use.COMPRESSION, self._visit(number, client))
        params, squared_distance = self._decode(state.params, variables["params"], key)
        weight = 1 if self._federated.noise_multiplier else len(self._sampler.parts[client])
        variables = {"params": params, "batch_stats": variables["batch_stats"]}
        return Answer(client, variables, float(parallel.fetch(squared_distance)), weight, metrics)

    def _encode_and_decode(self, start: dict, params: dict, key: jax.Array) -> tuple[dict, jax.Array]:
        """Clip and compress a client's update; return the parameters that arrive, and the squared norm of the update.

        Without clipping and compression, the parameters do not change, not even by rounding.
        """
        federated = self._federated
        update = jax.tree.map(jnp.subtract, params, start)
        if federated.clip_norm is None and federated.compression == "none":
            return params, optax.tree.norm(update, squared=True)
        if federated.clip_norm is not None:
            update = privacy.clip(update, federated.clip_norm)
        if federated.compression == "int8":
            update = compression.round_to_int8(update, key)
        elif federated.compression == "top_k":
            update = compression.keep_largest(update, federated.top_k_share)
        return jax.tree.map(jnp.add, start, update), optax.tree.norm(update, squared=True)

    def _server_update(
        self, params: dict, server_state: optax.OptState, mean: dict, answered: jax.Array, key: jax.Array
    ) -> tuple[dict, optax.OptState, jax.Array]:
        """Return the next parameters, the next state of the server's optimizer, and the norm of the mean update.

        Args:
          params: the parameters of the server.
          server_state: the state of its optimizer.
          mean: the average of the clients' parameters.
          answered: the number of answers divided by the number of clients that are invited on average. With noise, the
            sum of the updates is divided by the latter, so that one client changes it by a bounded amount.
          key: a PRNG key for the noise.
        """
        federated = self._federated
        trainable, frozen = self._experiment.freezing.split(params)
        mean, _ = self._experiment.freezing.split(mean)
        update = jax.tree.map(jnp.subtract, mean, trainable)
        norm = optax.tree.norm(update)
        if federated.noise_multiplier:
            std = federated.noise_multiplier * federated.clip_norm / self._invited_on_average
            update = privacy.add_noise(jax.tree.map(lambda leaf: leaf * answered, update), std, key)
        elif federated.server == "average" and federated.server_rate == 1:
            return merge(mean, frozen), server_state, norm  # Exactly, because adding the difference would round.
        update, server_state = self._experiment.optimizer.update(update, server_state, trainable)
        return merge(optax.apply_updates(trainable, update), frozen), server_state, norm

    def _recompute_statistics(self, variables: dict, number: int, answers: Sequence[Answer]) -> dict:
        """Return the batch statistics of a model on the examples of the clients, weighted like their models."""
        device = self._experiment.on_devices[0]
        placed = jax.device_put(variables, parallel.replicated(device.mesh))
        mean: dict = {}
        total_weight = 0.0
        for answer in answers:
            first = self._visit(number, answer.client) * self._sampler.steps_per_visit
            steps = min(self._num_steps[answer.client], STATISTICS_STEPS)
            for step in range(first, first + steps):
                statistics = self._batch_statistics(
                    placed["params"], placed["batch_stats"], device.feed.inputs(step), step
                )
                total_weight += answer.weight / steps
                share = answer.weight / steps / total_weight
                statistics = jax.device_put(statistics, parallel.replicated(self._experiment.mesh))
                mean = self._add_to_mean(mean, statistics, share) if mean else statistics
        return mean

    def _means(self, answers: Sequence[Answer], update_norm: float) -> dict[str, float]:
        """Return the weighted means of the clients' metrics, and how far the parameters have moved.

        `gradient_norm` is the distance of the average of the clients' parameters from those of the server, and `drift`
        the root mean square distance of the clients' parameters from their average.
        """
        weights = np.array([answer.weight for answer in answers], float)
        weights /= weights.sum()
        names = ("loss", "top1", "learning_rate")
        means = {name: float(weights @ [answer.metrics[name] for answer in answers]) for name in names}
        means["clients"] = len(answers)
        means["gradient_norm"] = update_norm
        mean_squared_distance = float(weights @ [answer.squared_distance for answer in answers])
        means["drift"] = math.sqrt(max(0.0, mean_squared_distance - update_norm**2))
        return means

    def _bytes(self, state: TrainState, invited: int, answered: int) -> dict[str, float]:
        """Return how many megabytes travel from the server to the clients, and back."""
        federated = self._federated
        shared = dict(self._experiment.freezing.split(state.params)[0])
        statistics = compression.bytes_sent(state.batch_stats)
        kept = 0
        if federated.batch_norm == "local":
            kept = compression.bytes_sent(batch_norms(state.online_variables)["params"])
            statistics = 0
        up = compression.bytes_sent(shared, federated.compression, federated.top_k_share) + statistics
        down = compression.bytes_sent(shared) + statistics
        return {"megabytes_up": answered * (up - kept) / 1e6, "megabytes_down": invited * (down - kept) / 1e6}
