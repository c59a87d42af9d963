"""Federated runs of a tiny model on digits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from PIL import Image

import resnet_jax
from resnet_jax.data.client_folders import open_client
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.errors import UserError
from resnet_jax.evaluation import validation
from resnet_jax.evaluation.metrics import ExampleMetrics
from resnet_jax.federated import participation
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run
from resnet_jax.training import experiment as experiments
from resnet_jax.training import federated_experiment, federated_rounds
from resnet_jax.training.federated_client import LocalClient, initial_variables
from resnet_jax.training.federated_experiment import batch_norms
from resnet_jax.training.federated_rounds import Round
from resnet_jax.training.recalibration import make_batch_statistics
from resnet_jax.training.train_step import SINGLE_STEP, compile_train_steps


@pytest.fixture
def config(tiny_config):
    """Settings for two rounds with three clients and group normalization."""
    tiny_config.model.norm = "group_norm"
    tiny_config.batch_size = 32
    tiny_config.log_every_steps = 1
    tiny_config.federated.partition = "iid"
    tiny_config.federated.clients = 3
    return tiny_config


def build_central(config, mesh, sources=None):
    return experiments.build(config, mesh, sources or open_sources("digits"), Reporter(active=False, max_unreadable=0))


def build(config, mesh, sources=None):
    federated_experiment.check(config)
    return federated_experiment.from_experiment(build_central(config, mesh, sources))


def take_rounds(experiment, count, between_steps=lambda: None):
    take_round = Round(experiment, Reporter(active=False), between_steps)
    state = experiment.initial_state()
    for number in range(count):
        state, metrics = take_round(state, number)
    return state, {name: float(value[0]) for name, value in metrics.items()}


def assert_equal_trees(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, expected_leaf in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf)


def distance(first, second):
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, first, second)))


# --- What federated training equals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["group_norm", pytest.param("batch_norm", marks=pytest.mark.slow)])
def test_round_of_one_client_equals_an_epoch_of_ordinary_training_bit_for_bit(config, single_device, norm):
    config.model.norm, config.num_epochs = norm, 1
    config.federated.clients = 1
    state, metrics = take_rounds(build(config, single_device), 1)
    config.federated.partition = config.federated.clients = None
    central = build_central(config, single_device)
    expected, losses = central.initial_state(), []
    train_step = compile_train_steps(central)[SINGLE_STEP]
    for step in range(central.feed.steps_per_epoch):
        expected, step_metrics = train_step(expected, central.feed.inputs(step))
        losses.append(float(step_metrics["loss"][0]))
    assert len(losses) == 11
    assert_equal_trees(parallel.fetch(state.variables), parallel.fetch(expected.variables))
    assert metrics["loss"] == pytest.approx(np.mean(losses))


def test_rounds_follow_the_schedule(config, single_device):
    """Without momentum, nothing but the schedule tells the second round of one client from the second epoch."""
    config.optimizer.momentum, config.optimizer.nesterov = 0.0, False
    config.federated.clients = 1
    state, metrics = take_rounds(build(config, single_device), 2)
    config.federated.partition = config.federated.clients = None
    central = build_central(config, single_device)
    expected = central.initial_state()
    train_step = compile_train_steps(central)[SINGLE_STEP]
    for step in range(2 * central.feed.steps_per_epoch):
        expected, _ = train_step(expected, central.feed.inputs(step))
    assert metrics["learning_rate"] == pytest.approx(0.05)  # half of the cosine
    assert_equal_trees(parallel.fetch(state.variables), parallel.fetch(expected.variables))


def test_one_local_step_of_sgd_equals_a_step_with_the_examples_of_all_clients(config, single_device):
    config.augment.crop_padding = 0
    config.optimizer.momentum, config.optimizer.nesterov = 0.0, False
    config.federated.local_steps = 1
    experiment = build(config, single_device)
    state, metrics = take_rounds(experiment, 1)
    client = experiment.on_devices[0]
    batches = [client.feed.take(client.feed.inputs(visit), 0) for visit in range(3)]
    images, labels = (jnp.concatenate(arrays) for arrays in list(zip(*batches, strict=True))[:2])

    def loss(params):
        return experiment.loss(experiment.model.apply({"params": params}, experiment.preprocess(images), True), labels)

    start = experiment.initial_state().params
    decay = config.optimizer.weight_decay
    expected = jax.tree.map(lambda w, g: w - 0.1 * (g + decay * w), start, jax.grad(loss)(start))
    assert metrics["loss"] == pytest.approx(float(loss(start)), rel=1e-5)
    for leaf, expected_leaf in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-5, atol=1e-6)


def build_with_clients(config, mesh, sizes):
    """Build a run whose clients have so many examples."""
    source = open_sources("digits")["train"]
    train = ArraySource(source.images[: sum(sizes)], source.labels[: sum(sizes)], source.classes)
    train.directories = np.repeat(np.arange(len(sizes)), sizes)
    config.dataset.train_split, config.dataset.validation_split, config.dataset.test_split = "train", "none", "none"
    config.federated.partition, config.federated.clients = "directories", None
    return build(config, mesh, {"train": train})


@pytest.mark.slow
def test_larger_clients_have_more_weight(config, single_device):
    """One client has five times as many examples as the other; the server takes the weighted mean of their models."""
    experiment = build_with_clients(config, single_device, [300, 60])
    assert [len(part) for part in experiment.sampler.parts] == [300, 60]
    both, _ = take_rounds(experiment, 1)
    alone = []
    for client in (0, 1):
        take_round = Round(experiment, Reporter(active=False), lambda: None)
        take_round._num_steps = [steps * (number == client) for number, steps in enumerate(take_round._num_steps)]
        alone.append(take_round(experiment.initial_state(), 0)[0].params)
    expected = jax.tree.map(lambda first, second: (5 * first + second) / 6, *alone)
    for leaf, expected_leaf in zip(jax.tree.leaves(both.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_proximal_term_keeps_clients_near_the_server(config, single_device):
    _, free = take_rounds(build(config, single_device), 1)
    config.federated.proximal = 5.0
    _, held = take_rounds(build(config, single_device), 1)
    assert held["gradient_norm"] < 0.8 * free["gradient_norm"]
    assert held["drift"] < 0.8 * free["drift"]


@pytest.mark.slow
def test_devices_train_clients_at_the_same_time_with_the_same_result(config, single_device):
    config.federated.clients = 5
    alone, _ = take_rounds(build(config, single_device), 2)
    together, _ = take_rounds(build(config, parallel.make_mesh(jax.devices()[:3])), 2)
    assert_equal_trees(parallel.fetch(together), parallel.fetch(alone))


# --- Batch normalization ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_local_batch_norm_stays_with_its_client(config, single_device):
    config.model.norm, config.federated.batch_norm = "batch_norm", "local"
    experiment = build(config, single_device)
    state, metrics = take_rounds(experiment, 1)
    local = state.opt_state["local"]
    average = batch_norms(state.online_variables)
    for stacked, mean in zip(jax.tree.leaves(local), jax.tree.leaves(average), strict=True):
        assert stacked.shape == (3, *mean.shape)
        weights = [len(part) for part in experiment.sampler.parts]
        np.testing.assert_allclose(np.average(stacked, axis=0, weights=weights), mean, rtol=1e-4, atol=1e-6)
    assert distance(jax.tree.map(lambda leaf: leaf[0], local), jax.tree.map(lambda leaf: leaf[1], local)) > 0.01
    take_round = Round(experiment, Reporter(active=False), lambda: None)
    received = take_round._variables_for(state, 1)
    assert_equal_trees(batch_norms(received), jax.tree.map(lambda leaf: leaf[1], local))
    assert_equal_trees(received["params"]["head"], state.params["head"])
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    kept = sum(leaf.size for leaf in jax.tree.leaves(average["params"]))
    assert metrics["megabytes_up"] == pytest.approx(3 * 4 * (size - kept) / 1e6)


@pytest.mark.slow
def test_recomputed_statistics_are_those_of_the_new_model(config, single_device):
    config.model.norm, config.federated.batch_norm = "batch_norm", "recomputed"
    config.federated.clients = 1
    experiment = build(config, single_device)
    state, _ = take_rounds(experiment, 1)
    client = experiment.on_devices[0]
    statistics = make_batch_statistics(client)
    batches = [
        statistics(state.params, experiment.initial_state().batch_stats, client.feed.inputs(step), step)["stem_norm"]
        for step in range(10)
    ]
    means, variances = (np.array([batch[name] for batch in batches]) for name in ("mean", "var"))
    actual = state.batch_stats["stem_norm"]
    np.testing.assert_allclose(actual["mean"], means.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(actual["var"], variances.mean(axis=0) + means.var(axis=0), rtol=1e-3, atol=1e-5)


# --- Privacy and size -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clipped_updates_bound_the_update_of_the_server(config, single_device):
    config.federated.clip_norm = 0.01
    experiment = build(config, single_device)
    state, metrics = take_rounds(experiment, 1)
    assert distance(state.params, experiment.initial_state().params) <= 0.0101
    assert metrics["gradient_norm"] <= 0.0101


@pytest.mark.slow
def test_noise_on_the_sum_of_updates_has_the_configured_std(config, single_device):
    pytest.importorskip("dp_accounting")
    config.federated.update(clip_norm=1e-6, noise_multiplier=1e4)
    experiment = build(config, single_device)
    state, metrics = take_rounds(experiment, 1)
    change = jax.tree.map(jnp.subtract, state.params, experiment.initial_state().params)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)])
    assert values.std() == pytest.approx(1e4 * 1e-6 / 3, rel=0.05)
    assert metrics["epsilon"] < 0.01


def test_private_update_is_the_sum_of_clipped_updates_over_the_expected_number_of_clients(
    config, single_device, monkeypatch
):
    """Whoever takes part: neither the number of clients that do nor their numbers of examples change the divisor."""
    pytest.importorskip("dp_accounting")
    config.federated.update(share=0.5, clip_norm=0.01, noise_multiplier=0.1)
    experiment = build_with_clients(config, single_device, [200, 100, 60])
    start = experiment.initial_state().params
    take_round = Round(experiment, Reporter(active=False), lambda: None)

    def update(*clients):
        chosen = participation.Participation(len(clients), dict.fromkeys(clients, 2))
        monkeypatch.setattr(federated_rounds, "participation", lambda *_: chosen)
        state, metrics = take_round(experiment.initial_state(), 0)
        assert metrics["clients"][0] == len(clients)
        return ravel_pytree(state.params)[0] - ravel_pytree(start)[0]

    noise = update()
    assert noise.std() == pytest.approx(0.1 * 0.01 / 1.5, rel=0.05)
    alone = [update(client) - noise for client in range(3)]
    np.testing.assert_allclose([jnp.linalg.norm(one) for one in alone], 0.01 / 1.5, rtol=1e-2)
    np.testing.assert_allclose(update(0, 2) - noise, alone[0] + alone[2], rtol=1e-2, atol=1e-6)


def test_rounds_without_clients_have_no_metrics(config, single_device):
    pytest.importorskip("dp_accounting")
    config.federated.update(share=1e-6, clip_norm=1e-6, noise_multiplier=1.0)
    _, metrics = take_rounds(build(config, single_device), 1)
    assert (metrics["clients"], metrics["loss"], metrics["megabytes_up"]) == (0, 0, 0)


@pytest.mark.slow
def test_only_parameters_that_are_sent_are_compressed_and_counted(config, single_device):
    """Frozen parameters and the batch normalization of a client stay as they are."""
    config.model.norm, config.federated.batch_norm = "batch_norm", "local"
    config.freeze = ("stage*",)
    config.federated.update(compression="top_k", top_k_share=0.1)
    experiment = build(config, single_device)
    state, metrics = take_rounds(experiment, 1)
    start = experiment.initial_state().params
    assert_equal_trees(state.params["stage1_block1"], start["stage1_block1"])
    sent = sum(leaf.size for name in ("stem_conv", "head") for leaf in jax.tree.leaves(state.params[name]))
    assert metrics["megabytes_up"] == pytest.approx(3 * 8 * np.ceil(0.1 * sent) / 1e6)
    stems = state.opt_state["local"]["params"]["stem_norm"]["scale"]
    assert np.ptp(stems, axis=0).max() > 1e-4


@pytest.mark.parametrize(
    ("compression", "share"), [pytest.param("int8", 0.25, marks=pytest.mark.slow), ("top_k", 0.02)]
)
def test_compressed_updates_are_smaller_and_still_train(config, single_device, compression, share):
    experiment = build(config, single_device)
    _, whole = take_rounds(experiment, 1)
    config.federated.compression = compression
    state, compressed = take_rounds(build(config, single_device), 1)
    assert compressed["megabytes_up"] == pytest.approx(share * whole["megabytes_up"], rel=0.05)
    assert compressed["megabytes_down"] == whole["megabytes_down"]
    moved = distance(state.params, experiment.initial_state().params)
    assert 0.1 * whole["gradient_norm"] < moved < 1.1 * whole["gradient_norm"]


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_run_is_an_ordinary_run_directory(config, tmp_path):
    config.federated.partition, config.federated.alpha = "dirichlet", 0.3
    config.federated.server = "adam"
    config.federated.server_rate = 0.01
    result = resnet_jax.train(config, str(tmp_path))
    assert result["epochs"] == 2
    assert result["checkpoint_step"] in (1, 2)
    assert load_run(str(tmp_path)).predict(np.zeros((1, 8, 8, 1), np.uint8)).probabilities.shape == (1, 10)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "train/drift" in record] == [1, 2]
    assert all(record["train/clients"] == 3 for record in records if "train/clients" in record)
    validated = [record for record in records if "validation/worst_decile" in record]
    assert len(validated) == 2


@pytest.mark.parametrize("feed", ["resident", pytest.param("streaming", marks=pytest.mark.slow)])
def test_first_client_may_have_no_examples(config, single_device, feed):
    config.dataset.feed = feed
    experiment = build(config, single_device)
    experiment.sampler.parts[0] = experiment.sampler.parts[0][:0]
    images, labels = experiment.batch_at(0)
    assert images.shape == (32, 8, 8, 1)
    assert {*np.asarray(labels)} <= {*experiment.sampler.labels[experiment.sampler.parts[1]]}


@pytest.mark.slow
def test_run_starts_from_other_weights_with_a_streaming_feed(config, tmp_path):
    config.federated.update(batch_norm="local", server="momentum")
    config.model.norm = "batch_norm"
    config.dataset.feed = "streaming"
    resnet_jax.train(config, str(tmp_path / "first"))
    config.init_from = str(tmp_path / "first")
    config.num_epochs, config.optimizer.learning_rate = 1, 1e-20  # The weights stay as they are.
    resnet_jax.train(config, str(tmp_path / "second"))
    first, second = (load_run(str(tmp_path / name)).variables["params"] for name in ("first", "second"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), first, second)


@pytest.mark.slow
def test_streaming_and_resident_feeds_give_the_same_clients_the_same_examples(config, single_device):
    resident = build(config, single_device)
    config.dataset.feed = "streaming"
    streaming = build(config, single_device)
    for visit in (0, 4):
        step = visit * resident.sampler.steps_per_visit + 1
        first, second = (experiment.on_devices[0].batch_at(step) for experiment in (resident, streaming))
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    streaming.feed.close()


@pytest.mark.slow
def test_student_on_several_devices_has_a_teacher_on_each(config, tmp_path):
    federated = config.federated.copy_and_resolve_references()
    config.federated.partition = None
    resnet_jax.train(config, str(tmp_path / "teacher"))
    config.federated = federated
    config.loss.distill_from = str(tmp_path / "teacher")
    _, metrics = take_rounds(build(config, parallel.make_mesh(jax.devices()[:2])), 1)
    assert metrics["clients"] == 3


def test_reported_epsilon_is_the_last_one(config, tmp_path):
    accounting = pytest.importorskip("dp_accounting")
    config.federated.update(clip_norm=1.0, noise_multiplier=1.0)
    config.num_epochs = config.log_every_steps = 3
    resnet_jax.train(config, str(tmp_path))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (reported,) = [record["train/epsilon"] for record in records if "train/epsilon" in record]
    accountant = accounting.rdp.RdpAccountant()
    accountant.compose(accounting.PoissonSampledDpEvent(1.0, accounting.GaussianDpEvent(1.0)), 3)
    assert reported == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)


class Stopped(Exception):
    pass


def test_round_stopped_in_the_middle_can_be_repeated_exactly(config, single_device):
    experiment = build(config, single_device)
    expected, _ = take_rounds(experiment, 1)
    state = experiment.initial_state()
    steps = 0

    def stop():
        nonlocal steps
        steps += 1
        if steps == 5:
            raise Stopped

    take_round = Round(experiment, Reporter(active=False), stop)
    with pytest.raises(Stopped):
        take_round(state, 0)
    repeated, _ = take_round(state, 0)
    assert_equal_trees(parallel.fetch(repeated), parallel.fetch(expected))


def test_loss_of_a_client_that_is_not_finite_stops_the_run(config, tmp_path):
    config.optimizer.learning_rate = 1e30
    with pytest.raises(UserError, match="the parameters of client 0 are not finite after round 1"):
        resnet_jax.train(config, str(tmp_path))


def test_parameters_of_the_server_that_are_not_finite_stop_the_run(config, single_device):
    config.federated.server, config.federated.server_rate = "momentum", 1e38
    with pytest.raises(UserError, match=r"of the server are not finite after round 1.* a lower federated.server_rate"):
        take_rounds(build(config, single_device), 1)


def test_client_that_drops_out_receives_the_model_but_sends_nothing(config, single_device, monkeypatch):
    chosen = participation.Participation(3, {1: 1})
    monkeypatch.setattr(federated_rounds, "participation", lambda *_: chosen)
    _, metrics = take_rounds(build(config, single_device), 1)
    assert metrics["megabytes_down"] == pytest.approx(3 * metrics["megabytes_up"])
    assert (metrics["clients"], metrics["drift"]) == (1, pytest.approx(0, abs=1e-3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federated.server": "sgd"}, "unknown federated.server 'sgd'"),
        ({"federated.batch_norm": "local"}, "works only with batch_norm, and the model has group_norm"),
        ({"federated.noise_multiplier": 1.0}, "Set federated.clip_norm"),
        (
            {"federated.noise_multiplier": 1.0, "federated.clip_norm": 1.0, "federated.compression": "int8"},
            "federated.compression=int8 may round an update to a larger norm",
        ),
        (
            {
                "federated.noise_multiplier": 1.0,
                "federated.clip_norm": 1.0,
                "model.name": "airbench94",
                "model.norm": "group_norm",
            },
            "does not protect the images from which the whitening stem is computed",
        ),
        ({"steps_per_call": 2}, r"steps_per_call \(2\) must be 1 in a federated run"),
        ({"ema_decay": 0.9}, "ema_decay does not work in a federated run. Set ema_decay=None"),
        ({"augment.alternating_flip": True}, "augment.alternating_flip does not work in a federated run"),
        ({"federated.partition": "directories"}, "needs a dataset with one directory per client"),
        ({"num_epochs": 2**31}, "all clients together would take up to .* Lower num_epochs"),
    ],
)
def test_settings_that_do_not_work_are_reported(config, tmp_path, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        resnet_jax.train(config, str(tmp_path))


def test_worst_decile_is_the_accuracy_of_clients_on_their_own_classes():
    labels, correct = np.array([0, 0, 1, 1, 1, 1]), np.array([1, 1, 1, 0, 0, 0], bool)
    examples = ExampleMetrics(np.arange(6), labels, np.zeros(6), np.where(correct, labels, 9), None, None)
    shares = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    accuracies = [1.0, 0.25, 0.625, 0.25]  # Class 2 has no validation examples, so the last client does not count.
    assert validation.worst_decile_top1(examples, shares) == pytest.approx(np.quantile(accuracies, 0.1))


# --- Clients of an engine ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clients_with_only_their_own_images_train_as_in_the_simulation(config, single_device, tmp_path):
    """As on Flower: no client opens the images of others. The second one lacks a class, and does not fill a batch."""
    random = np.random.default_rng(0)
    for client, counts in {"north": {"dark": 20, "light": 12}, "south": {"light": 6}}.items():
        for name, count in counts.items():
            (tmp_path / client / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / client / name / f"{number}.png")
    config.dataset.name = f"clients:{tmp_path}"
    config.dataset.train_split, config.dataset.validation_split, config.dataset.test_split = "train", "none", "none"
    config.dataset.update(image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    config.batch_size = 8
    config.federated.update(partition="directories", clients=2, local_steps=3)
    state, _ = take_rounds(build(config, single_device, open_sources(config.dataset.name)), 1)
    clients = [
        LocalClient(config, number, open_client(f"{tmp_path}/{name}", ["dark", "light"]))
        for number, name in enumerate(("north", "south"))
    ]
    start = initial_variables(config, num_classes=2)
    trained = [client.train(start, 0)[0] for client in clients]
    weights = [client.num_examples for client in clients]
    assert weights == [32, 6]
    average = jax.tree.map(lambda *leaves: np.average(leaves, axis=0, weights=weights), *trained)
    for leaf, expected in zip(jax.tree.leaves(average), jax.tree.leaves(state.variables), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federated.server": "adam"}, "federated.server works only in a simulation"),
        ({"federated.noise_multiplier": 1.0}, "federated.noise_multiplier works only in a simulation"),
        ({"init_from": "weights.safetensors"}, "a run starts from new weights"),
        ({"model.stem": "whitening", "model.shortcut": "projection"}, "a run starts from new weights"),
        ({"model.name": "airbench94"}, "a run starts from new weights"),
    ],
)
def test_settings_that_a_client_on_a_real_machine_cannot_follow_are_reported(config, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        initial_variables(config, num_classes=2)


def test_client_on_a_real_machine_does_not_divide_its_own_images(config):
    config.federated.partition = "iid"
    with pytest.raises(UserError, match=r"federated.partition \(iid\) must be directories on real machines"):
        LocalClient(config, 0, open_sources("digits")["train"])


def test_client_with_an_unknown_class_or_without_images_is_named(tmp_path):
    (tmp_path / "north" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="there are no images in"):
        open_client(f"{tmp_path}/north", ["dog"])
    Image.new("RGB", (8, 8)).save(tmp_path / "north" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"has classes that are not in the list of all classes \(cat\)"):
        open_client(f"{tmp_path}/north", ["dog"])
