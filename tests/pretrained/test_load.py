"""Pretrained weights from run directories and files: as initial weights, to be scored, and as teachers."""

import argparse
import dataclasses
import functools
import json
import logging
import pathlib

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import score_run
from resnet_jax.export.weights import export_weights
from resnet_jax.models import factory, variants
from resnet_jax.models.resnet import MaxPoolBlock, PlainMaxPoolBlock, PreActivationBlock
from resnet_jax.pretrained import convert, hub, weight_files
from resnet_jax.pretrained.load import load_pretrained, load_pretrained_without_data, load_teacher, open_pretrained
from resnet_jax.pretrained.weight_files import read
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run
from resnet_jax.training.experiment import build

REPORTER = Reporter(active=False, max_unreadable=0)


@pytest.fixture(autouse=True)
def pre_activation(tiny_variant, monkeypatch):
    """The tiny model with pre-activation blocks, under the name "pre_activation"."""
    tiny = variants.VARIANTS["tiny"]
    make = functools.partial(tiny.make, block=PreActivationBlock)
    monkeypatch.setitem(variants.VARIANTS, "pre_activation", dataclasses.replace(tiny, make=make))


@pytest.fixture(autouse=True)
def max_pool(tiny_variant, monkeypatch):
    """Models with the same variables and different blocks, under the names "max_pool" and "plain_max_pool"."""
    tiny = variants.VARIANTS["tiny"]
    for name, block in (("max_pool", MaxPoolBlock), ("plain_max_pool", PlainMaxPoolBlock)):
        make = functools.partial(tiny.make, block=block)
        monkeypatch.setitem(variants.VARIANTS, name, dataclasses.replace(tiny, make=make))


def untrained(name, run, **settings):
    """Return a run's trained model with another model and its initial weights in place of its own."""
    config = run.config.copy_and_resolve_references()
    config.model.update(name=name, **settings)
    model = factory.from_config(config, len(run.classes))
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False)
    return dataclasses.replace(run, config=config, model=model, variables=variables)


@pytest.fixture
def workdir(tiny_run):
    return str(tiny_run)


@pytest.fixture
def start(single_device, caplog):
    """Return a function that returns an experiment, its initial state, and the messages about pretrained weights."""

    def start(config, sources=None):
        experiment = build(config, single_device, sources or open_sources("digits"), REPORTER)
        caplog.clear()
        with caplog.at_level(logging.INFO, "resnet_jax"):
            state = experiment.initial_state()
        return experiment, parallel.fetch(state), list(caplog.messages)

    return start


def load(config, *arguments):
    return load_pretrained(config, open_pretrained(config.init_from), *arguments)


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_exported_weights_load_as_the_same_model(workdir, tiny_config, tmp_path):
    run, file = load_run(workdir), str(tmp_path / "weights.safetensors")
    export_weights(run, file)
    tiny_config.init_from = file
    again = load(tiny_config, open_sources("digits"))
    assert_equal(again.variables, run.variables)
    assert again.preprocess == run.preprocess
    scores = [score_run(trained, open_sources("digits"), "test[:100]", REPORTER) for trained in (run, again)]
    assert scores[0] == scores[1]


class TestWithoutData:
    """`load_pretrained_without_data`."""

    @pytest.fixture
    def weights(self, workdir):
        return open_pretrained(workdir)

    def load(self, config, weights, **changes):
        return load_pretrained_without_data(config, dataclasses.replace(weights, **changes))

    def test_classes_and_image_size_are_those_of_the_weights(self, tiny_config, weights, workdir, caplog):
        tiny_config.dataset.name = "folder:/missing"
        loaded, run = self.load(tiny_config, weights), load_run(workdir)
        assert_equal(loaded.variables, run.variables)
        assert (loaded.classes, loaded.config.dataset.image_size) == (run.classes, 8)
        images = open_sources("digits")["test"].images[:4]
        assert_equal(loaded.predict(images).probabilities, run.predict(images).probabilities)
        assert not caplog.messages

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": None}, "do not record an image size. Set dataset.image_size."),
            ({"mean": None}, "do not record their pixel mean and std. Set dataset.mean and dataset.std."),
            ({"classes": None, "arrays": {}}, "have no head. Train one first."),
        ],
    )
    def test_weights_that_lack_what_is_needed_are_refused(self, tiny_config, weights, changes, message):
        with pytest.raises(UserError) as error:
            self.load(tiny_config, weights, **changes)
        assert str(error.value).endswith(message)


def test_exported_weights_describe_the_model_in_their_metadata(workdir, tmp_path):
    run, file = load_run(workdir), str(tmp_path / "weights.safetensors")
    export_weights(run, file)
    metadata = read(file).metadata
    assert metadata.pop("format") == "pt"
    description = {key: json.loads(value) for key, value in metadata.items()}
    assert description["classes"] == list(run.classes) == [str(digit) for digit in range(10)]
    assert (tuple(description["mean"]), tuple(description["std"])) == (run.config.dataset.mean, run.config.dataset.std)
    assert (description["model"], description["image_size"]) == ("tiny", 8)


def test_init_from_starts_with_the_weights_of_another_run(workdir, tiny_config, start):
    tiny_config.init_from, tiny_config.seed = workdir, 5
    experiment, state, messages = start(tiny_config)
    assert_equal(state.variables, load_run(workdir).variables)
    assert state.step == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state))
    assert messages == [f"Weights of {workdir}: 27 of 27 arrays loaded (named as in torchvision)"]
    assert experiment.config.dataset.mean == load_run(workdir).config.dataset.mean


def test_run_resumes_without_its_initial_weights(workdir, tiny_config, tmp_path):
    file, new_workdir = tmp_path / "weights.safetensors", str(tmp_path / "run")
    export_weights(load_run(workdir), str(file))
    tiny_config.init_from, tiny_config.num_epochs = str(file), 1
    resnet_jax.train(tiny_config, new_workdir)
    file.unlink()
    tiny_config.num_epochs = 2
    assert resnet_jax.train(tiny_config, new_workdir)["test"]["examples"] == 100
    with pytest.raises(UserError, match="there is no such file"):
        resnet_jax.train(tiny_config, str(tmp_path / "another"))


def test_images_are_resized_to_the_size_that_the_weights_were_trained_on(workdir, tiny_config, start, tmp_path):
    digits = open_sources("digits")
    smaller = {
        name: ArraySource(source.images[:, 1:7, 1:7], source.labels, source.classes) for name, source in digits.items()
    }
    export_weights(load_run(workdir), str(tmp_path / "weights.safetensors"))
    tiny_config.init_from = str(tmp_path / "weights.safetensors")
    experiment, _, _ = start(tiny_config, smaller)
    assert experiment.feed.image_shape == (6, 6, 1)
    assert experiment.preprocess.image_size == 8
    assert load(tiny_config, smaller).preprocess.image_size == 8
    tiny_config.dataset.image_size = 6
    assert start(tiny_config, smaller)[0].preprocess.image_size == 6


def test_init_from_creates_a_new_head_for_other_classes(workdir, tiny_config, start):
    digits = open_sources("digits")["train"]
    sources = {"train": ArraySource(digits.images, digits.labels % 3, ("0", "1", "2"))}
    tiny_config.init_from, tiny_config.dataset.test_split, tiny_config.dataset.validation_split = (
        workdir,
        "none",
        "none",
    )
    tiny_config.ema_decay = 0.9
    _, state, messages = start(tiny_config, sources)
    before = load_run(workdir).variables["params"]
    assert state.params.keys() == before.keys()
    for name in before:
        if name != "head":
            assert_equal(state.params[name], before[name])
    assert state.params["head"]["kernel"].shape == (16, 3)
    assert_equal(state.ema["params"], state.params)
    assert "fc.weight is skipped" in messages[0]  # The class names differ.


def test_pretraining_starts_from_the_weights_of_a_supervised_run(workdir, tiny_config, start):
    tiny_config.init_from, tiny_config.dataset.validation_split = workdir, "none"
    tiny_config.pretrain.method, tiny_config.pretrain.projector = "simclr", (16, 16)
    _, state, messages = start(tiny_config)
    run = load_run(workdir)
    backbone = {name: values for name, values in run.variables["params"].items() if name != "head"}
    assert_equal({name: state.params[name] for name in backbone}, backbone)
    assert_equal(state.batch_stats, state.batch_stats | run.variables["batch_stats"])
    assert "fc.weight is skipped" in messages[0]


def test_bit_depth_is_that_of_the_weights(workdir, tiny_config, tmp_path):
    run = load_run(workdir)
    run.config.dataset.bit_depth = 12
    export_weights(run, str(tmp_path / "weights.safetensors"))
    weights = open_pretrained(str(tmp_path / "weights.safetensors"))
    assert load_pretrained(tiny_config, weights, open_sources("digits")).config.dataset.bit_depth == 12
    assert load_pretrained_without_data(tiny_config, weights).config.dataset.bit_depth == 12
    assert load_pretrained(tiny_config, open_pretrained(workdir), open_sources("digits")).config.dataset.bit_depth == 16
    unknown = dataclasses.replace(weights, bit_depth=None)  # It is measured, and digits have 8 bits.
    assert load_pretrained(tiny_config, unknown, open_sources("digits")).config.dataset.bit_depth == 16


def test_training_finds_out_bit_depth_and_kind_of_labels_from_its_own_data(workdir, tiny_config, tmp_path, start):
    run = load_run(workdir)
    run.config.dataset.bit_depth, run.config.dataset.multi_label = 12, True
    export_weights(run, str(tmp_path / "weights.safetensors"))
    tiny_config.init_from = str(tmp_path / "weights.safetensors")
    experiment, _, _ = start(tiny_config)
    assert experiment.config.dataset.bit_depth is None  # Digits have 8 bits, so nothing is scaled.
    assert experiment.config.dataset.multi_label is False


def test_init_skip_keeps_the_random_initial_values(workdir, tiny_config, start):
    tiny_config.seed = 5
    _, drawn, _ = start(tiny_config)
    tiny_config.init_from, tiny_config.init_skip = workdir, ("head*", "*/conv2/*")
    _, state, messages = start(tiny_config)
    loaded = load_run(workdir).variables["params"]
    assert_equal(state.params["head"], drawn.params["head"])
    assert_equal(state.params["stage1_block1"]["conv2"], drawn.params["stage1_block1"]["conv2"])
    assert_equal(state.params["stage1_block1"]["conv1"], loaded["stage1_block1"]["conv1"])
    assert "23 of 27 arrays loaded" in messages[0]
    assert "fc.weight is skipped" in messages[0]


def test_init_from_rejects_weights_of_another_architecture(workdir, tiny_config, start):
    tiny_config.init_from, tiny_config.model.squeeze_excitation = workdir, 4
    with pytest.raises(UserError, match="do not fit the model of the config"):
        start(tiny_config)


def test_load_pretrained_rejects_data_with_other_classes(workdir, tiny_config):
    digits = open_sources("digits")["test"]
    tiny_config.init_from = workdir
    with pytest.raises(UserError, match="have different classes from the dataset"):
        load(tiny_config, {"test": ArraySource(digits.images, digits.labels % 3, ("0", "1", "2"))})


def test_teacher_can_be_a_file(workdir, tiny_config, tmp_path):
    run, file = load_run(workdir), str(tmp_path / "weights.safetensors")
    export_weights(run, file)
    tiny_config.loss.distill_from, tiny_config.loss.distill_model, tiny_config.model.name = file, "tiny", "resnet20"
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.1,), (0.2,)
    teacher = load_teacher(tiny_config, run.classes, run.mesh)
    assert_equal(teacher.variables, run.variables)
    assert teacher.preprocess == run.preprocess  # Its own mean and std, not those of the student.
    assert tiny_config.dataset.mean == (0.1,)
    tiny_config.loss.distill_model = None  # The file contains the name of the model.
    assert_equal(load_teacher(tiny_config, run.classes, run.mesh).variables, run.variables)


def test_teacher_of_another_architecture_is_an_error(workdir, tiny_config, tmp_path):
    run, file = load_run(workdir), str(tmp_path / "weights.safetensors")
    export_weights(run, file)
    tiny_config.loss.distill_from, tiny_config.loss.distill_model = file, "resnet20"
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.1,), (0.2,)
    sentences = r"does not fit loss.distill_model=resnet20: .*\)\. Set loss.distill_model to the teacher's model\.$"
    with pytest.raises(UserError, match=sentences):
        load_teacher(tiny_config, run.classes, run.mesh)


def test_teacher_may_have_blocks_with_their_own_shortcuts(workdir, tiny_config, tmp_path):
    teacher = untrained("max_pool", load_run(workdir))
    file = str(tmp_path / "weights.safetensors")
    export_weights(teacher, file)
    tiny_config.loss.distill_from = file
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.1,), (0.2,)
    assert_equal(load_teacher(tiny_config, teacher.classes, teacher.mesh).variables, teacher.variables)


def test_weights_of_other_blocks_with_the_same_shapes_are_refused(workdir, tiny_config, start, tmp_path):
    file = str(tmp_path / "weights.safetensors")
    export_weights(untrained("max_pool", load_run(workdir)), file)
    tiny_config.model.name, tiny_config.init_from = "plain_max_pool", file
    with pytest.raises(UserError, match=r"those of max_pool, whose blocks differ .*\. Set model\.name=max_pool\.$"):
        start(tiny_config)


def test_names_of_pre_activation_models_do_not_reveal_the_shortcut(workdir, tmp_path):
    file = str(tmp_path / "weights.safetensors")
    run = untrained("pre_activation", load_run(workdir), shortcut="average_pool")
    export_weights(run, file)
    from_timm = dataclasses.replace(open_pretrained(file), settings={}, model=None)
    assert_equal(from_timm.all_variables(run.model, 1, run.classes), run.variables)


def test_weights_for_three_channels_see_gray_images_as_three_channels(tiny_config, start, tmp_path):
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    resnet_jax.train(tiny_config, str(tmp_path / "color"))
    tiny_config.dataset.mean = tiny_config.dataset.std = None
    tiny_config.init_from = str(tmp_path / "color")
    experiment, state, _ = start(tiny_config)
    assert experiment.config.dataset.mean == (0.5, 0.4, 0.3)
    assert state.params["stem_conv"]["kernel"].shape == (3, 3, 3, 8)


def test_url_is_not_taken_for_a_run_directory(monkeypatch):
    """An address that begins with hf:// or https:// is never looked up as a directory."""
    downloads = []
    monkeypatch.setattr(hub, "download", lambda name: downloads.append(name) or pathlib.Path("/nowhere/weights.pth"))
    with pytest.raises(UserError, match="there is no such file"):
        open_pretrained("hf://timm/resnet50")
    assert downloads == ["hf://timm/resnet50"]
    with pytest.raises(UserError, match="there is no such file"):
        open_pretrained("https://example.org/weights.pth")


def test_directory_of_another_library_is_not_a_run(tmp_path):
    (tmp_path / "config.json").write_text('{"_name_or_path": "microsoft/resnet-50"}')
    with pytest.raises(UserError, match="not a run directory"):
        open_pretrained(str(tmp_path))


def tensors(run, prefix=""):
    """Return the arrays of a run as a training script with PyTorch saves them, with the counters of BatchNorm."""
    import torch

    arrays = convert.from_variables(run.variables, run.model)
    counters = {name.replace("running_mean", "num_batches_tracked"): torch.tensor(9) for name in arrays}
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()} | {
        name: counter for name, counter in counters.items() if name not in arrays
    }
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def zeros(state):
    return {name: tensor * 0 for name, tensor in state.items()}


SCRIPTS = {
    "timm": lambda torch, run: {
        "epoch": 9,
        "arch": "resnet18",
        "state_dict": zeros(tensors(run)),
        "optimizer": {"state": {0: {"momentum_buffer": torch.full((3,), torch.nan)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(data=pathlib.Path("/data")),
        "state_dict_ema": tensors(run),
        "metric": np.float64(76.1),
    },
    "torchvision": lambda torch, run: {
        "model": zeros(tensors(run)),
        "args": argparse.Namespace(model="resnet18"),
        "model_ema": {"n_averaged": torch.tensor(7), **tensors(run, "module.")},
    },
    "Lightning": lambda torch, run: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": tensors(run, "model._orig_mod.") | {"criterion.weight": torch.ones(3), "seen": torch.tensor(7)},
        "callbacks": {"ModelCheckpoint{" + 300 * "'" + "}": {"best_model_score": torch.tensor(0.9)}},
        "hyper_parameters": argparse.Namespace(lr=0.1),
    },
    "MoCo": lambda torch, run: {
        "arch": "resnet50",
        "state_dict": zeros(tensors(run, "module.encoder_k."))
        | tensors(run, "module.encoder_q.")
        | {"module.queue": torch.zeros(2, 3), "module.queue_ptr": torch.tensor([0])},
    },
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_files_of_training_scripts_are_loaded(workdir, tiny_config, start, tmp_path, script):
    torch = pytest.importorskip("torch")
    run, file = load_run(workdir), tmp_path / "checkpoint.pth.tar"
    torch.save(SCRIPTS[script](torch, run), file)
    tiny_config.init_from, tiny_config.dataset.mean, tiny_config.dataset.std = str(file), (0.1,), (0.2,)
    _, state, messages = start(tiny_config)
    assert_equal(state.variables, run.variables)
    assert f"Weights of {file}: 27 of 27 arrays loaded (named as in torchvision)" in messages
    assert_equal(load(tiny_config, open_sources("digits")).variables, run.variables)


def test_init_key_selects_the_weights_that_are_not_averaged(workdir, tiny_config, start, tmp_path):
    torch = pytest.importorskip("torch")
    run, file = load_run(workdir), tmp_path / "checkpoint.pth.tar"
    torch.save(SCRIPTS["timm"](torch, run), file)
    tiny_config.init_from, tiny_config.dataset.mean, tiny_config.dataset.std = str(file), (0.1,), (0.2,)
    tiny_config.init_key = "state_dict"
    _, state, _ = start(tiny_config)
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.variables))


def test_init_key_of_a_run_directory_is_refused(workdir):
    with pytest.raises(UserError, match="has no effect on a run directory"):
        open_pretrained(workdir, "state_dict")


@pytest.fixture
def exported(workdir, tmp_path):
    """A function that writes weights of the tiny model with some arrays replaced, and returns the path of the file."""

    def write(**replaced):
        path = tmp_path / "weights.safetensors"
        export_weights(load_run(workdir), str(path))
        weights = read(str(path))
        path.write_bytes(weight_files.safetensors_bytes(weights.arrays | replaced, weights.metadata))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.zeros(8, np.int8), "the array bn1.bias has dtype I8"),
        (np.full(8, np.nan, np.float32), "the array bn1.bias has non-finite values"),
        (np.full(8, np.inf, np.float32), "the array bn1.bias has non-finite values"),
    ],
)
def test_arrays_that_the_model_needs_must_hold_finite_floating_point_numbers(exported, tiny_config, value, problem):
    tiny_config.init_from = exported(**{"bn1.bias": value})
    with pytest.raises(UserError, match=problem):
        load(tiny_config, open_sources("digits"))


def test_arrays_that_the_model_does_not_need_are_left_out(exported, tiny_config, workdir):
    extra = {"fc_aux.weight": np.full(3, np.nan, np.float32)}
    tiny_config.init_from = exported(**extra, queue_ptr=np.zeros(1, np.int64))
    with pytest.raises(UserError, match=r"init_skip=\"\('fc_aux\*',\)\" to leave these arrays out\."):
        load(tiny_config, open_sources("digits"))
    tiny_config.init_skip = ("fc_aux*",)
    assert_equal(load(tiny_config, open_sources("digits")).variables, load_run(workdir).variables)
    tiny_config.init_skip = ("fc*",)
    with pytest.raises(UserError, match="init_skip leaves out arrays that the model needs"):
        load(tiny_config, open_sources("digits"))


@pytest.mark.parametrize(("setting", "trained", "chosen"), [("blur_pool", False, True), ("activation", "relu", "gelu")])
def test_init_from_rejects_settings_that_no_array_shape_reveals(
    workdir, tiny_config, start, tmp_path, setting, trained, chosen
):
    export_weights(load_run(workdir), str(tmp_path / "weights.safetensors"))
    tiny_config.model[setting] = chosen
    for path in (workdir, str(tmp_path / "weights.safetensors")):
        tiny_config.init_from = path
        with pytest.raises(UserError, match=rf"were trained with model\.{setting}={trained}"):
            start(tiny_config)


def test_whitening_stem_is_exported_and_loaded_in_place_of_a_new_one(tiny_config, start, tmp_path):
    tiny_config.model.stem, tiny_config.model.shortcut, tiny_config.num_epochs = "whitening", "projection", 1
    resnet_jax.train(tiny_config, str(tmp_path / "run"))
    export_weights(load_run(str(tmp_path / "run")), str(tmp_path / "weights.safetensors"))
    tiny_config.init_from = str(tmp_path / "weights.safetensors")
    _, state, _ = start(tiny_config)
    assert_equal(state.variables, load_run(str(tmp_path / "run")).variables)


def test_activation_of_files_that_do_not_record_it_is_relu(workdir, tmp_path):
    file = str(tmp_path / "weights.safetensors")
    export_weights(load_run(workdir), file)
    weights = read(file)
    network = {key: value for key, value in json.loads(weights.metadata["network"]).items() if key != "activation"}
    metadata = {**weights.metadata, "network": json.dumps(network)}
    pathlib.Path(file).write_bytes(weight_files.safetensors_bytes(weights.arrays, metadata))
    assert open_pretrained(file).settings["activation"] == "relu"


@pytest.mark.slow
def test_exported_weights_need_no_array_names_that_reveal_the_shortcut(tiny_config, start, tmp_path):
    """The metadata records the shortcut. In other files, average-pool shortcuts must be named as in timm's ResNet-D."""
    tiny_config.model.shortcut, tiny_config.num_epochs = "average_pool", 1
    tiny_config.model.name = "pre_activation"
    resnet_jax.train(tiny_config, str(tmp_path / "run"))
    export_weights(load_run(str(tmp_path / "run")), str(tmp_path / "weights.safetensors"))
    tiny_config.init_from = str(tmp_path / "weights.safetensors")
    _, state, _ = start(tiny_config)
    assert_equal(state.variables, load_run(str(tmp_path / "run")).variables)


@pytest.mark.parametrize(
    "damage",
    [
        {"mean": "0.5, 0.5"},
        {"mean": "5"},
        {"mean": "[NaN]"},
        {"mean": "[" * 100_000},
        {"std": "[0]"},
        {"std": "[1e400]"},
        {"classes": "[1]"},
        {"model": '"resnet19"'},
        {"network": "{}"},
        {"image_size": "31.5"},
        {"image_size": "1e9"},
        {"bit_depth": "99"},
        {"multi_label": '"yes"'},
    ],
    ids=str,
)
def test_open_pretrained_rejects_damaged_metadata(workdir, tmp_path, damage):
    file = str(tmp_path / "weights.safetensors")
    export_weights(load_run(workdir), file)
    weights = read(file)
    pathlib.Path(file).write_bytes(weight_files.safetensors_bytes(weights.arrays, weights.metadata | damage))
    with pytest.raises(UserError, match="was not written by `export` or is damaged"):
        open_pretrained(file)


def test_load_pretrained_rejects_images_with_other_channels(workdir, tiny_config):
    digits = open_sources("digits")["test"]
    color = ArraySource(np.repeat(digits.images, 3, axis=-1), digits.labels, digits.classes)
    tiny_config.init_from = workdir
    with pytest.raises(UserError, match="mean and std have 1 channels, but the images have 3"):
        load(tiny_config, {"test": color})


def test_load_pretrained_takes_a_split_if_there_is_no_test_split(workdir, tiny_config):
    tiny_config.init_from, tiny_config.dataset.test_split = workdir, "none"
    sources = {"train": open_sources("digits")["train"]}
    assert load(tiny_config, sources).config.dataset.image_size == 8
    run = load(tiny_config, sources, "train[:50]")
    assert score_run(run, sources, "train[:50]", REPORTER)["examples"] == 50


def test_load_pretrained_without_validation_split_names_it(workdir, tiny_config):
    tiny_config.init_from, tiny_config.dataset.validation_split = workdir, "none"
    with pytest.raises(UserError, match=r"there is no validation split .*\. Choose another --split\."):
        load(tiny_config, open_sources("digits"), "validation")


@pytest.mark.slow
def test_published_weights_reach_their_published_accuracy(test_data):
    """akamaster's ResNet-20 has a published error of 8.27 % on CIFAR-10. All settings but the file are the recipe's."""
    from tests.end_to_end.program import run

    finished = run(
        "evaluate",
        "--config=configs/cifar10.py:resnet20",
        f"--config.init_from={test_data / 'weights' / 'resnet20-12fca82f.th'}",
        f"--config.dataset.data_dir={test_data / 'tfds'}",
        "--format=json",
    )
    assert finished.returncode == 0, finished.stderr
    scores = json.loads(finished.stdout.splitlines()[-1])
    assert (scores["top1"], scores["examples"]) == (pytest.approx(0.9173, abs=0.0002), 10_000)
    assert open_pretrained(str(test_data / "weights" / "resnet20-12fca82f.th")).mean == (0.485, 0.456, 0.406)
