"""A federated run in the form that the training loop takes: a step is a round, and the state is that of the server."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax.data.feed import Feed
from resnet_jax.data.sampling import ClientSampler
from resnet_jax.errors import UserError, unknown_name
from resnet_jax.federated import compression, privacy
from resnet_jax.federated.server import SERVERS, add_proximal_gradient, make_server_optimizer
from resnet_jax.runtime import parallel
from resnet_jax.training.distillation import Teacher
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.state import TrainState

MAX_STEPS = 2**31 - 1  # Step numbers are int32.
BATCH_NORMS = ("averaged", "local", "recomputed")  # values of `federated.batch_norm`

# Settings that do not work in a federated run, and the values that they must have.
UNSUPPORTED = {
    "augment.alternating_flip": False,
    "augment.progressive_resizing": (),
    "augment.repeats": 1,
    "dataset.sampler": "uniform",
    "ema_decay": None,
    "pretrain.method": None,
}


def check(config: ConfigDict) -> None:
    """Raise `UserError` if the settings do not work in a federated run."""
    federated = config.federated
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
        if settings.get(config, key) != value:
            raise UserError(f"{key} does not work in a federated run. Set {key}={value!r}.")
    if federated.noise_multiplier and federated.clip_norm is None:
        raise UserError("federated.noise_multiplier needs bounded updates. Set federated.clip_norm.")
    if config.steps_per_call not in (None, 1):
        raise UserError(f"steps_per_call ({config.steps_per_call}) must be 1 in a federated run. Leave it unset.")
    if federated.noise_multiplier:
        if federated.compression == "int8":
            raise UserError(
                "federated.compression=int8 may round an update to a larger norm than federated.clip_norm, so "
                "federated.noise_multiplier does not work with it. Set federated.compression=none or top_k."
            )
        if config.loss.class_weights is not None:
            raise UserError(
                f"federated.noise_multiplier does not protect the labels behind loss.class_weights "
                f"({config.loss.class_weights}). Leave loss.class_weights unset."
            )
        privacy.epsilon(federated.noise_multiplier, federated.share, 1, federated.delta)  # The package is installed.


class RoundFeed:
    """The data of a federated run in the form that the training loop takes: a step is a round.

    The clients have feeds of their own.
    """

    supports_several_steps = False
    steps_per_epoch = 1
    max_prefetched = 0

    def __init__(self, feeds: Sequence[Feed], sampler: ClientSampler):
        self._feeds = feeds
        self._sampler = sampler
        self.image_shape = feeds[0].image_shape
        self.size = feeds[0].size
        self.crops_on_host = feeds[0].crops_on_host

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

    For the form of its optimizer state, see `with_local_batch_norms`.

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
        """Return the augmented images and the labels of the first step of the first client with examples in a round."""
        return self.on_devices[0].batch_at(self._first_step(step))

    def _whitening_kernel(self, step: int = 0) -> np.ndarray:
        return self.on_devices[0]._whitening_kernel(self._first_step(step))

    def _first_step(self, round_index: int) -> int:
        """Return the number of the first step of the first client with examples in a round."""
        client = next(number for number, part in enumerate(self.sampler.parts) if len(part))
        return (round_index * self.sampler.clients + client) * self.sampler.steps_per_visit

    def initial_state(self) -> TrainState:
        """Return the state before the first round; see `Experiment.initial_state`."""
        state = with_local_batch_norms(super().initial_state(), self.config.federated)
        return parallel.place(state, parallel.replicated(self.mesh))

    def abstract_state(self) -> TrainState:
        """Return the shapes, dtypes and shardings of the state."""
        add_local = functools.partial(with_local_batch_norms, federated=self.config.federated)
        return parallel.abstract(jax.eval_shape(add_local, super().abstract_state()), parallel.replicated(self.mesh))


def from_experiment(experiment: Experiment) -> FederatedExperiment:
    """Return the federated experiment for one that `experiment.build` has built.

    Raises:
      UserError: if the run has several processes, if the clients take too many steps, or if the model does not fit the
        settings.
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
    if federated.noise_multiplier and experiment.model.stem == "whitening":
        raise UserError(
            "federated.noise_multiplier does not protect the images from which the whitening stem is computed. "
            "Set model.stem=cifar."
        )
    client_steps = experiment.config.num_epochs * experiment.clients.clients * experiment.clients.steps_per_visit
    if client_steps > MAX_STEPS:
        raise UserError(
            f"all clients together would take up to {client_steps:,} steps, and only {MAX_STEPS:,} can be numbered. "
            "Lower num_epochs, the number of clients or their steps per round."
        )
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
            teacher=_teacher_on_device(experiment.teacher, device),
        )
        for device in experiment.mesh.devices.flat[:at_a_time]
    )
    fields = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(Experiment)}
    fields["feed"] = RoundFeed([client.feed for client in on_devices], experiment.clients)
    fields["optimizer"] = make_server_optimizer(federated)
    return FederatedExperiment(**fields, on_devices=on_devices)


def _teacher_on_device(teacher: Teacher | None, device: jax.Device) -> Teacher | None:
    if teacher is None:
        return None
    replicated = parallel.replicated(parallel.make_mesh([device]))
    return dataclasses.replace(teacher, variables=jax.device_put(teacher.variables, replicated))


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
