"""Self-supervised pre-training as a run, of a tiny model on digits."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.sources import WithoutLabels, open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.diagnostics import replay
from resnet_jax.diagnostics.hlo import parse_collectives
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.selfsupervised import embeddings
from resnet_jax.selfsupervised.pretraining_methods import METHODS
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run
from resnet_jax.training import experiment as experiments
from resnet_jax.training.train_step import SINGLE_STEP, compile_train_steps
from resnet_jax.workdir.workdir import WorkDir


@pytest.fixture
def config(tiny_config):
    """Settings for two short epochs of pre-training."""
    tiny_config.dataset.test_split = "none"
    tiny_config.augment.crop_padding = 2
    tiny_config.pretrain.method = "simclr"
    tiny_config.pretrain.projector = (16, 16)
    tiny_config.checkpoint.best_metric = "knn"
    tiny_config.early_stopping.metric = "knn"
    return tiny_config


def build(config, mesh, sources=None):
    return experiments.build(config, mesh, sources or open_sources("digits"), Reporter(active=False, max_unreadable=0))


def with_method(config, name):
    method = METHODS[name]
    config.pretrain.method = name
    config.pretrain.predictor = (8, 16) if method.predictor else ()
    config.ema_decay = 0.9 if method.has_target else None
    return config


SLOW = ("barlow_twins", "byol", "vicreg", "simsiam")
ALL_METHODS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS]


@pytest.mark.parametrize("name", ALL_METHODS)
def test_every_method_trains_and_leaves_a_run_whose_features_can_be_used(config, tmp_path, name):
    result = resnet_jax.train(with_method(config, name), str(tmp_path / "run"))
    assert 0 < result["validation"]["knn"] <= 1
    assert result["validation"]["examples"] == 40
    assert result["test"] is None
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < record["train/embedding_std"] <= 1 for record in records if "train/loss" in record)
    assert all(1 <= record["train/effective_rank"] <= 16 for record in records if "train/loss" in record)
    trained = load_run(str(tmp_path / "run"))
    assert not {"head", "projector", "predictor"} & set(trained.variables["params"])


class Forbidden(int):
    """A label that must not be read."""

    def __index__(self):
        raise AssertionError("a label was read")

    __int__ = __index__
    __ge__ = __lt__ = __eq__ = lambda self, other: self.__index__()
    __hash__ = None


class Guarded:
    """A source whose labels raise when they are read."""

    classes = ("a", "b")
    channels = 1

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        return self._source[index][0], Forbidden()

    @property
    def labels(self):
        raise AssertionError("the labels were read")


def test_guarded_labels_are_noticed_by_supervised_training(tiny_config, mesh):
    sources = {split: Guarded(source) for split, source in open_sources("digits").items()}
    with pytest.raises(AssertionError, match="read"):
        build(tiny_config, mesh, sources)


def test_labels_are_never_read_without_validation(config, tmp_path):
    config.dataset.validation_split = "none"
    sources = {split: Guarded(source) for split, source in open_sources("digits").items()}
    result = resnet_jax.train(config, str(tmp_path / "run"), sources)
    assert result["validation"] is None


@pytest.mark.slow
def test_interrupted_run_ends_with_the_same_weights(config, tmp_path):
    """`verify_resume` is tested with BYOL."""
    config = with_method(config, "simclr")
    resnet_jax.train(config, str(tmp_path / "whole"))

    def interrupt(experiment, step, num_steps, inputs):
        if step == 3:
            raise KeyboardInterrupt

    config.checkpoint.every_minutes = 1e-9  # Save after every call.
    with pytest.raises(KeyboardInterrupt):
        resnet_jax.train(config, str(tmp_path / "resumed"), observe=interrupt)
    resnet_jax.train(config, str(tmp_path / "resumed"))
    whole, resumed = (load_run(str(tmp_path / run)).variables for run in ("whole", "resumed"))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def losses(config, mesh, steps=3):
    """Return the losses of the first steps."""
    experiment = build(config, mesh)
    step, state = compile_train_steps(experiment)[SINGLE_STEP], experiment.initial_state()
    values = []
    for number in range(steps):
        state, metrics = step(state, experiment.feed.inputs(number))
        values.append(float(metrics["loss"][0]))
    return values


@pytest.mark.parametrize("name", ALL_METHODS)
def test_eight_devices_compute_the_loss_of_the_global_batch(config, mesh, single_device, name):
    config = with_method(config, name)
    on_eight, on_one = losses(config, mesh), losses(config, single_device)
    assert on_eight[0] == pytest.approx(on_one[0], rel=1e-5)
    np.testing.assert_allclose(on_eight, on_one, rtol=1e-4)  # Rounding adds up.


def test_correlation_loss_sums_over_all_devices(config, mesh):
    """The correlation matrix is that of the global batch. No parameter has its shape, 24 x 24."""
    config = with_method(config, "barlow_twins")
    config.pretrain.projector = (8, 24)
    collectives = parse_collectives(compile_train_steps(build(config, mesh))[SINGLE_STEP].as_text())
    assert ("f32", (24, 24)) in [array for collective in collectives for array in collective.arrays]


def test_contrastive_loss_gathers_the_embeddings_of_all_devices(config, mesh):
    """And no image."""
    collectives = parse_collectives(compile_train_steps(build(config, mesh))[SINGLE_STEP].as_text())
    gathered = [array for collective in collectives if collective.kind == "all-gather" for array in collective.arrays]
    assert gathered
    assert all(dtype == "f32" and sorted(shape) == [16, 2 * config.batch_size] for dtype, shape in gathered)


def test_views_are_different_augmentations_of_the_same_images(config, mesh):
    config.pretrain.second_solarize = 1.0
    experiment = build(config, mesh)
    views, _ = experiment.batch_at(0)
    images = experiment.feed.take(experiment.feed.inputs(0), 0).images
    assert views.shape == (64, 2, *images.shape[1:])
    assert (views[:, 0] != views[:, 1]).any()
    alone = dataclasses.replace(experiment, second_augment=None)
    assert alone.batch_at(0)[0].shape == images.shape


def train_simsiam(config, mesh, steps=200):
    """Return the effective rank of the projections at the end."""
    config = with_method(config, "simsiam")
    config.pretrain.projector, config.pretrain.predictor = (32, 32), (8, 32)
    experiment = build(config, mesh)
    step, state = compile_train_steps(experiment)[SINGLE_STEP], experiment.initial_state()
    for number in range(steps):
        state, metrics = step(state, experiment.feed.inputs(number))
    return float(metrics["effective_rank"][0])


@pytest.mark.slow
def test_simsiam_collapses_only_without_its_stop_gradient(config, single_device, monkeypatch):
    """The last BatchNorm keeps each dimension varied, so the projections collapse to a line, not to a point."""
    config.num_epochs = 40
    config.optimizer.learning_rate = 0.3
    assert train_simsiam(config, single_device) > 1.5
    monkeypatch.setattr(jax.lax, "stop_gradient", lambda values: values)
    assert train_simsiam(config, single_device) < embeddings.COLLAPSED_RANK


def test_collapse_is_reported_once(config, tmp_path, capsys, monkeypatch):
    config.log_every_steps = 1
    monkeypatch.setattr(embeddings, "COLLAPSED_RANK", 100.0)
    resnet_jax.train(config, str(tmp_path / "run"))
    assert (
        capsys.readouterr().out.count("The embeddings have collapsed by step 1: they differ along a single line") == 1
    )


def test_target_is_the_recursion_of_the_paper(config, single_device):
    """From the first step on, and evaluation uses the model itself (Grill et al. 2020, section 3.1)."""
    experiment = build(with_method(config, "byol"), single_device)
    step, state = compile_train_steps(experiment)[SINGLE_STEP], experiment.initial_state()
    expected = parallel.fetch(state.params)
    for number in range(3):
        state, _ = step(state, experiment.feed.inputs(number))
        decay = 1 - (1 - 0.9) * (np.cos(np.pi * number / experiment.total_steps) + 1) / 2
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new, expected, parallel.fetch(state.params)
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        expected,
        parallel.fetch(state.ema)["params"],
    )
    assert experiment.evaluated_variables(state)["params"] is state.params


def test_target_decay_rises_to_1_along_a_cosine(config, mesh):
    experiment = build(with_method(config, "byol"), mesh)
    decays = [float(experiment.ema_decay(step)) for step in (0, experiment.total_steps // 2, experiment.total_steps)]
    np.testing.assert_allclose(decays, [0.9, 0.95, 1.0], rtol=1e-6)


@pytest.fixture
def folder(tmp_path):
    """Images of two sizes in a folder without class directories."""
    (tmp_path / "images").mkdir()
    for index, (image, _) in zip(range(96), open_sources("digits")["train"], strict=False):
        side = 12 if index % 2 else 16
        Image.fromarray(image[..., 0]).resize((side, side)).save(tmp_path / "images" / f"{index}.png")
    return f"images:{tmp_path}/images"


def test_streamed_views_are_different_crops(config, folder, mesh):
    config.dataset.name, config.dataset.image_size, config.dataset.num_workers = folder, 12, 0
    config.dataset.train_split = "train"
    config.augment.crop_padding, config.augment.random_resized_crop = 0, (0.2, 0.5)
    experiment = build(config, mesh, open_sources(folder))
    assert config.dataset.feed == "auto"
    views, _ = parallel.fetch(experiment.batch_at(0))
    experiment.feed.close()
    assert views.shape == (64, 2, 12, 12, 3)
    assert (views[:, 0] != views[:, 1]).any(axis=(1, 2, 3)).mean() > 0.9


@pytest.mark.slow
def test_folder_without_labels_is_streamed_and_trained_on(config, folder, tmp_path):
    config.dataset.name, config.dataset.image_size, config.dataset.num_workers = folder, 12, 0
    config.dataset.train_split = "train"
    config.augment.random_resized_crop = (0.2, 1.0)
    result = resnet_jax.train(config, str(tmp_path / "run"))
    assert result["validation"] is None
    assert load_run(str(tmp_path / "run")).classes == ()


def test_cached_examples_keep_their_labels(tmp_path, monkeypatch):
    """The cache of decoded examples does not mix up sources with and without labels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = open_sources("digits")["train"]
    source.fingerprint = "digits"
    splits = ({"train": WithoutLabels(source)}, {"train": source})
    without, with_labels = (
        read_examples(Subset.from_split(sources, "train"), Reporter(active=False)).labels for sources in splits
    )
    assert not without.any()
    np.testing.assert_array_equal(with_labels, source.labels)


@pytest.mark.slow
def test_non_finite_step_is_captured(config, tmp_path):
    config = with_method(config, "byol")
    config.optimizer.learning_rate = 1e30
    with pytest.raises(UserError, match=r"became (nan|inf)"):
        resnet_jax.train(config, str(tmp_path / "run"))
    assert (tmp_path / "run" / "nan" / "nan.json").exists()
    directory = WorkDir(str(tmp_path / "run"))
    saved = replay.load(directory)
    assert replay.replay(saved, directory.config(), ())
    replay.write_images(saved, directory, ())


@pytest.mark.parametrize("validation_split", ["train[:50]", "fold:1/5"])
def test_validation_without_labels_is_refused(config, folder, mesh, validation_split):
    config.dataset.name, config.dataset.validation_split, config.dataset.train_split = folder, validation_split, "train"
    with pytest.raises(UserError, match=r"needs one label per image.*Set dataset\.validation_split=none"):
        build(config, mesh, open_sources(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain.method": "simcrl"}, r"unknown pretrain\.method 'simcrl'.*simclr"),
        ({"augment.mixup": 0.2}, r"augment\.mixup needs labels.*Set augment\.mixup=0\.0"),
        ({"dataset.test_split": "test"}, r"dataset\.test_split needs labels"),
        ({"augment.alternating_flip": True}, "both views the same flip"),
        ({"optimizer.accumulate_steps": 2}, r"optimizer\.accumulate_steps=1"),
        ({"pretrain.method": "byol"}, r"ema_decay=0\.99"),
        ({"pretrain.temperature": 0.0}, r"pretrain\.temperature \(0\.0\) must be positive"),
        ({"pretrain.projector": (0,)}, r"pretrain\.projector \(0,\) must be widths"),
        ({"pretrain.predictor": (8, 8)}, "simclr has no predictor"),
    ],
)
def test_impossible_settings_are_rejected(config, mesh, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        experiments.check(config, mesh)


def test_supervised_run_is_not_validated_by_nearest_neighbors(tiny_config, mesh):
    tiny_config.checkpoint.best_metric = "knn"
    with pytest.raises(UserError, match=r"checkpoint\.best_metric \(knn\) must be top1, loss or map in this run"):
        build(tiny_config, mesh)
