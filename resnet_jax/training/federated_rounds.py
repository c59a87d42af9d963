"""Rounds of a federated run: the clients train, and the server follows the average of their models.

A round is a function of the state, the seed and its number, so a killed run repeats it exactly.
"""

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax import randomness
from resnet_jax.errors import UserError
from resnet_jax.federated import compression, privacy
from resnet_jax.federated.participation import participation
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.training.federated_client import ClientTrainer
from resnet_jax.training.federated_experiment import FederatedExperiment, batch_norms
from resnet_jax.training.freezing import merge
from resnet_jax.training.recalibration import make_batch_statistics
from resnet_jax.training.state import Metrics, TrainState

STATISTICS_STEPS = 10  # batches on which each client measures batch statistics, with "recomputed"


class Answer(NamedTuple):
    """The answer of a client to the server.

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
        self._experiment = experiment
        self._reporter = reporter
        self._between_steps = between_steps
        self._federated = experiment.config.federated
        self._seed = experiment.config.seed
        self._sampler = experiment.sampler
        self._num_steps = [self._sampler.num_steps(client) for client in range(self._sampler.clients)]
        self._invited_on_average = self._federated.share * sum(steps > 0 for steps in self._num_steps)
        self._trainers = [ClientTrainer(client) for client in experiment.on_devices]
        self._kept: dict = {}  # the parameters that each client keeps for itself, as shapes
        if self._federated.batch_norm == "local":
            self._kept = batch_norms(experiment.abstract_state().online_variables)["params"]
        jit = functools.partial(parallel.jit, mesh=experiment.mesh)
        self._compiled_encode_and_decode = jit(self._encode_and_decode)
        self._add_to_mean = jit(lambda mean, value, share: jax.tree.map(lambda m, v: m + (v - m) * share, mean, value))
        self._compiled_server_update = jit(self._server_update)
        self._norm = jit(optax.tree.norm)
        self._store_local = jit(
            lambda stacked, own, client: jax.tree.map(lambda all_, leaf: all_.at[client].set(leaf), stacked, own)
        )
        self._load_local = jit(lambda stacked, client: jax.tree.map(lambda leaf: leaf[client], stacked))
        if self._federated.batch_norm == "recomputed":
            self._batch_statistics = make_batch_statistics(experiment.on_devices[0])
            self._to_second_moments = jax.jit(
                functools.partial(_map_variances, lambda mean, variance: variance + mean**2)
            )
            self._to_variances = jit(
                functools.partial(_map_variances, lambda mean, moment: jnp.maximum(0.0, moment - mean**2))
            )

    def __call__(self, state: TrainState, round_index: int) -> tuple[TrainState, Metrics]:
        with jax.transfer_guard("allow"):  # Models move between the devices.
            return self._take(state, round_index)

    def _take(self, state: TrainState, round_index: int) -> tuple[TrainState, Metrics]:
        federated = self._federated
        started = time.monotonic()
        chosen = participation(federated, self._seed, round_index, self._num_steps)

        # The clients train. The average of their models is updated with each one.
        answers: list[Answer] = []
        mean: dict = {}
        total_weight = 0
        local = state.opt_state["local"]
        for answer in self._train_clients(state, round_index, chosen.steps):
            total_weight += answer.weight
            share = answer.weight / total_weight
            mean = self._add_to_mean(mean, answer.variables, share) if mean else answer.variables
            if local:
                local = self._store_local(local, batch_norms(answer.variables), answer.client)
            answers.append(answer._replace(variables={}))
        mean = mean or state.online_variables  # Without answers, which noise for privacy allows.

        # The server follows the average.
        params, server_state, update_norm = self._compiled_server_update(
            state.params,
            state.opt_state["server"],
            mean["params"],
            len(answers) / self._invited_on_average,
            randomness.key(self._seed, Use.PRIVACY, round_index),
        )
        self._check_is_finite(params, round_index)
        batch_stats = mean["batch_stats"]
        if federated.batch_norm == "recomputed":  # Noise for privacy excludes it, so there are answers.
            batch_stats = self._recompute_statistics(
                {"params": params, "batch_stats": batch_stats}, round_index, answers
            )
        next_state = TrainState(state.step + 1, params, batch_stats, {"server": server_state, "local": local}, {})

        metrics = self._means(answers, float(parallel.fetch(update_norm)))
        metrics |= self._bytes(state, chosen.invited, len(answers))
        if federated.noise_multiplier:
            metrics["epsilon"] = privacy.epsilon(
                federated.noise_multiplier, federated.share, round_index + 1, federated.delta
            )
        images = self._sampler.batch_size * sum(chosen.steps.values())
        metrics["images_per_second"] = images / (time.monotonic() - started)
        replicated = parallel.replicated(self._experiment.mesh)
        return next_state, {
            name: parallel.place(np.array([value], np.float32), replicated) for name, value in metrics.items()
        }

    def _train_clients(self, state: TrainState, round_index: int, steps: Mapping[int, int]) -> Iterable[Answer]:
        """Train the clients, as many at a time as there are devices, and yield their answers in order."""
        show_progress = self._reporter.counter(f"round {round_index + 1}, steps of clients")
        steps_taken, total_steps = 0, sum(steps.values())
        for first in range(0, len(steps), len(self._trainers)):
            clients = list(steps)[first : first + len(self._trainers)]
            trainers = dict(zip(clients, self._trainers, strict=False))
            for client, trainer in trainers.items():
                trainer.begin(self._variables_for(state, client), self._visit(round_index, client))
            for step in range(max(steps[client] for client in clients)):
                for client, trainer in trainers.items():
                    if step < steps[client]:
                        trainer.take_step()
                        steps_taken += 1
                self._between_steps()
                show_progress(steps_taken, total_steps)
            for client, trainer in trainers.items():
                yield self._answer(state, round_index, client, trainer)

    def _visit(self, round_index: int, client: int) -> int:
        return round_index * self._sampler.clients + client

    def _variables_for(self, state: TrainState, client: int) -> dict:
        """Return the model that a client receives: that of the server, with the batch normalization of the client."""
        local = state.opt_state["local"]
        return merge(state.online_variables, self._load_local(local, client)) if local else state.online_variables

    def _answer(self, state: TrainState, round_index: int, client: int, trainer: ClientTrainer) -> Answer:
        """Return the answer of a client that has taken its steps.

        Raises:
          UserError: if its loss or its parameters are not finite.
        """
        variables, metrics = trainer.finish()
        variables = jax.device_put(variables, parallel.replicated(self._experiment.mesh))
        key = randomness.key(self._seed, Use.COMPRESSION, self._visit(round_index, client))
        params, squared_distance = self._compiled_encode_and_decode(state.params, variables["params"], key)
        squared_distance = float(parallel.fetch(squared_distance))
        if not (math.isfinite(metrics["loss"]) and math.isfinite(squared_distance)):
            raise UserError(
                f"the parameters of client {client} are not finite after round {round_index + 1} (its loss is "
                f"{metrics['loss']}). Checkpoints of earlier rounds are intact. To train further, start a new "
                "--workdir with a lower optimizer.learning_rate, or set optimizer.grad_clip."
            )
        weight = 1 if self._federated.noise_multiplier else len(self._sampler.parts[client])
        variables = {"params": params, "batch_stats": variables["batch_stats"]}
        return Answer(client, variables, squared_distance, weight, metrics)

    def _check_is_finite(self, params: dict, round_index: int) -> None:
        """Raise `UserError` if the parameters of the server are not finite after a round."""
        if not math.isfinite(float(parallel.fetch(self._norm(params)))):
            raise UserError(
                f"the parameters of the server are not finite after round {round_index + 1}. Checkpoints of earlier "
                "rounds are intact. To train further, start a new --workdir with a lower federated.server_rate."
            )

    def _encode_and_decode(self, start: dict, params: dict, key: jax.Array) -> tuple[dict, jax.Array]:
        """Clip and compress a client's update; return the parameters that arrive, and the squared norm of the update.

        Parameters that clients do not send are returned unchanged. Without clipping and compression, all parameters are
        returned unchanged, without rounding.
        """
        federated = self._federated
        start = self._sent(start)
        update = jax.tree.map(jnp.subtract, self._sent(params), start)
        if federated.clip_norm is None and federated.compression == "none":
            return params, optax.tree.norm(update, squared=True)
        if federated.clip_norm is not None:
            update = privacy.clip(update, federated.clip_norm)
        if federated.compression == "int8":
            update = compression.round_to_int8(update, key)
        elif federated.compression == "top_k":
            update = compression.keep_largest(update, federated.top_k_share)
        arrived = jax.tree.map(jnp.add, start, update)
        return merge(params, arrived), optax.tree.norm(update, squared=True)

    def _sent(self, params: dict) -> dict:
        """Return the parameters that clients send: not frozen ones, nor the batch normalization that clients keep."""
        trainable, _ = self._experiment.freezing.split(params)
        kept = flatten_dict(self._kept)
        return unflatten_dict({path: leaf for path, leaf in flatten_dict(trainable).items() if path not in kept})

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
        norm = optax.tree.norm(self._sent(update))
        if federated.noise_multiplier:
            std = federated.noise_multiplier * federated.clip_norm / self._invited_on_average
            update = privacy.add_noise(jax.tree.map(lambda leaf: leaf * answered, update), std, key)
        elif federated.server == "average" and federated.server_rate == 1:
            return merge(mean, frozen), server_state, norm  # Exactly, because adding the difference would round.
        update, server_state = self._experiment.optimizer.update(update, server_state, trainable)
        return merge(optax.apply_updates(trainable, update), frozen), server_state, norm

    def _recompute_statistics(self, variables: dict, round_index: int, answers: Sequence[Answer]) -> dict:
        """Return the batch statistics of a model on the examples of the clients, weighted like their models.

        The variance over all clients is the mean of their second moments minus the square of their mean.
        """
        device = self._experiment.on_devices[0]
        placed = jax.device_put(variables, parallel.replicated(device.mesh))
        mean: dict = {}
        total_weight = 0.0
        # Calls that do not depend on one another run at the same time on CPU, and each of them takes memory.
        pace = parallel.Pace(0)
        for answer in answers:
            first = self._visit(round_index, answer.client) * self._sampler.steps_per_visit
            steps = min(self._num_steps[answer.client], STATISTICS_STEPS)
            for step in range(first, first + steps):
                self._between_steps()
                inputs = device.feed.inputs(step)
                statistics = self._to_second_moments(
                    self._batch_statistics(placed["params"], placed["batch_stats"], inputs, step)
                )
                pace(statistics)
                total_weight += answer.weight / steps
                share = answer.weight / steps / total_weight
                statistics = jax.device_put(statistics, parallel.replicated(self._experiment.mesh))
                mean = self._add_to_mean(mean, statistics, share) if mean else statistics
        return self._to_variances(mean)

    def _means(self, answers: Sequence[Answer], update_norm: float) -> dict[str, float]:
        """Return the weighted means of the clients' metrics, and how far the parameters have moved.

        `gradient_norm` is the distance of the average of the clients' parameters from those of the server, and `drift`
        the root mean square distance of the clients' parameters from their average. Without answers, all values are 0.
        """
        if not answers:
            return dict.fromkeys(("loss", "top1", "learning_rate", "clients", "gradient_norm", "drift"), 0.0)
        weights = np.array([answer.weight for answer in answers], float)
        weights /= weights.sum()
        means = {
            name: float(weights @ [answer.metrics[name] for answer in answers])
            for name in ("loss", "top1", "learning_rate")
        }
        means["clients"] = len(answers)
        means["gradient_norm"] = update_norm
        mean_squared_distance = float(weights @ [answer.squared_distance for answer in answers])
        means["drift"] = math.sqrt(max(0.0, mean_squared_distance - update_norm**2))
        return means

    def _bytes(self, state: TrainState, invited: int, answered: int) -> dict[str, float]:
        """Return how many megabytes travel from the server to the clients, and back."""
        federated = self._federated
        sent = self._sent(state.params)
        statistics = 0 if federated.batch_norm == "local" else compression.bytes_sent(state.batch_stats)
        up = compression.bytes_sent(sent, federated.compression, federated.top_k_share) + statistics
        down = compression.bytes_sent(sent) + statistics
        if federated.batch_norm == "recomputed":  # The new model reaches those that answered once more.
            invited += answered
        return {"megabytes_up": answered * up / 1e6, "megabytes_down": invited * down / 1e6}


def _map_variances(function: Callable[[jax.Array, jax.Array], jax.Array], batch_stats: Mapping) -> dict:
    """Replace each variance by a function of the mean and the variance."""
    flat: dict = flatten_dict(dict(batch_stats))
    changed = {path: function(flat[(*path[:-1], "mean")], flat[path]) for path in flat if path[-1] == "var"}
    return unflatten_dict({**flat, **changed})
