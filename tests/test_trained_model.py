"""Networks from run directories and from weights, and runs that begin with them."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import score_run
from resnet_jax.inference.export import export_weights
from resnet_jax.models import variants
from resnet_jax.models.resnet import PreActivationBlock
from resnet_jax.pretrained import hub, weight_files
from resnet_jax.pretrained.load import load_pretrained, load_teacher, open_pretrained
from resnet_jax.pretrained.weight_files import read
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run
from resnet_jax.training import experiment as setups

REPORTER = Reporter(active=False, max_unreadable=0)


@pytest.fixture(autouse=True)
def pre_activation(tiny_variant, monkeypatch):
    """The tiny network in another order, by that name."""
    tiny = variants.VARIANTS["tiny"]
    make = functools.partial(tiny.make, block=PreActivationBlock)
    monkeypatch.setitem(variants.VARIANTS, "pre_activation", dataclasses.replace(tiny, make=make))


@pytest.fixture
def workdir(tiny_run):
    return str(tiny_run)


def begin(config, mesh, sources=None):
    """The state before the first step, and what was told of the weights."""
    setup = setups.build(config, mesh, sources or open_sources("digits"), REPORTER)
    told = []
    return setup, parallel.fetch(setup.initial_state(told.append)), told


def load(config, *arguments):
    return load_pretrained(config, open_pretrained(config.init_from), *arguments)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_exported_weights_are_the_same_network(workdir, tiny_config, tmp_path):
    run, file = load_run(workdir), str(tmp_path / "weights.safetensors")
    export_weights(run, file)
    tiny_config.init_from = file
    again = load(tiny_config, open_sources("digits"))
    assert_equal(again.variables, run.variables)
    assert again.preprocess == run.preprocess
    scores = [score_run(each, open_sources("digits"), "test[:100]", REPORTER) for each in (run, again)]
    assert scores[0] == scores[1]


def test_what_weights_were_trained_with_travels_with_them(workdir, tmp_path):
    run, file = load_run(workdir), str(tmp_path / "weights.safetensors")
    export_weights(run, file)
    metadata = read(file).metadata
    assert metadata.pop("format") == "pt"
    known = {key: json.loads(value) for key, value in metadata.items()}
    assert known["classes"] == list(run.classes) == [str(digit) for digit in range(10)]
    assert (tuple(known["mean"]), tuple(known["std"])) == (run.config.dataset.mean, run.config.dataset.std)
    assert (known["model"], known["image_size"]) == ("tiny", 8)


def test_a_run_begins_with_the_weights_of_another(workdir, tiny_config, single_device):
    tiny_config.init_from, tiny_config.seed = workdir, 5
    setup, state, told = begin(tiny_config, single_device)
    assert_equal(state.variables, load_run(workdir).variables)
    assert state.step == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state))
    assert told == [f"Weights of {workdir}: 27 of 27 arrays loaded, by the names of torchvision"]
    assert setup.config.dataset.mean == load_run(workdir).config.dataset.mean


def test_a_run_goes_on_without_the_weights_that_it_began_with(workdir, tiny_config, tmp_path):
    file, place = tmp_path / "weights.safetensors", str(tmp_path / "run")
    export_weights(load_run(workdir), str(file))
    tiny_config.init_from, tiny_config.num_epochs = str(file), 1
    resnet_jax.train(tiny_config, place)
    file.unlink()
    tiny_config.num_epochs = 2
    assert resnet_jax.train(tiny_config, place)["test"]["examples"] == 100
    with pytest.raises(UserError, match="there is no such file"):
        resnet_jax.train(tiny_config, str(tmp_path / "another"))


def test_pictures_are_resized_to_what_the_weights_were_trained_on(workdir, tiny_config, single_device, tmp_path):
    digits = open_sources("digits")
    smaller = {name: ArraySource(of.images[:, 1:7, 1:7], of.labels, of.classes) for name, of in digits.items()}
    export_weights(load_run(workdir), str(tmp_path / "weights.safetensors"))
    tiny_config.init_from = str(tmp_path / "weights.safetensors")
    setup, _, _ = begin(tiny_config, single_device, smaller)
    assert setup.feed.image_shape == (6, 6, 1)
    assert setup.preprocess.image_size == 8
    assert load(tiny_config, smaller).preprocess.image_size == 8
    tiny_config.dataset.image_size = 6
    assert begin(tiny_config, single_device, smaller)[0].preprocess.image_size == 6


def test_a_head_for_another_number_of_classes_is_new(workdir, tiny_config, single_device):
    digits = open_sources("digits")["train"]
    sources = {"train": ArraySource(digits.images, digits.labels % 3, ("0", "1", "2"))}
    tiny_config.init_from, tiny_config.dataset.test_split, tiny_config.dataset.validation_split = (
        workdir,
        "none",
        "none",
    )
    tiny_config.ema_decay = 0.9
    _, state, told = begin(tiny_config, single_device, sources)
    before = load_run(workdir).variables["params"]
    assert_equal(*({name: of[name] for name in of if name != "head"} for of in (state.params, before)))
    assert state.params["head"]["kernel"].shape == (16, 3)
    assert_equal(state.ema["params"], state.params)
    assert "fc.weight is skipped" in told[0]  # The classes have other names.


def test_what_is_skipped_stays_as_it_was_drawn(workdir, tiny_config, single_device):
    tiny_config.seed = 5
    _, drawn, _ = begin(tiny_config, single_device)
    tiny_config.init_from, tiny_config.init_skip = workdir, ("head*", "*/conv2/*")
    _, state, told = begin(tiny_config, single_device)
    loaded = load_run(workdir).variables["params"]
    assert_equal(state.params["head"], drawn.params["head"])
    assert_equal(state.params["stage1_block1"]["conv2"], drawn.params["stage1_block1"]["conv2"])
    assert_equal(state.params["stage1_block1"]["conv1"], loaded["stage1_block1"]["conv1"])
    assert "23 of 27 arrays loaded" in told[0]
    assert "fc.weight is skipped" in told[0]


def test_weights_of_another_network_are_refused(workdir, tiny_config, single_device):
    tiny_config.init_from, tiny_config.model.squeeze_excitation = workdir, 4
    with pytest.raises(UserError, match="of another network than the config's"):
        begin(tiny_config, single_device)


def test_weights_are_scored_only_on_as_many_classes(workdir, tiny_config):
    digits = open_sources("digits")["test"]
    tiny_config.init_from = workdir
    with pytest.raises(UserError, match="tell other classes apart than the data has"):
        load(tiny_config, {"test": ArraySource(digits.images, digits.labels % 3, ("0", "1", "2"))})


def test_a_teacher_may_be_a_file(workdir, tiny_config, tmp_path):
    run, file = load_run(workdir), str(tmp_path / "weights.safetensors")
    export_weights(run, file)
    tiny_config.loss.distill_from, tiny_config.loss.distill_model, tiny_config.model.name = file, "tiny", "resnet20"
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.1,), (0.2,)
    teacher = load_teacher(tiny_config, run.classes, run.mesh)
    assert_equal(teacher.variables, run.variables)
    assert teacher.preprocess == run.preprocess  # Its own mean and deviation, not the student's.
    assert tiny_config.dataset.mean == (0.1,)
    tiny_config.loss.distill_model = None  # The file tells it.
    assert_equal(load_teacher(tiny_config, run.classes, run.mesh).variables, run.variables)


def test_weights_in_three_channels_see_grey_pictures_in_three(tiny_config, single_device, tmp_path):
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    resnet_jax.train(tiny_config, str(tmp_path / "colour"))
    tiny_config.dataset.mean = tiny_config.dataset.std = None
    tiny_config.init_from = str(tmp_path / "colour")
    setup, state, _ = begin(tiny_config, single_device)
    assert setup.config.dataset.mean == (0.5, 0.4, 0.3)
    assert state.params["stem_conv"]["kernel"].shape == (3, 3, 3, 8)


def test_averages_of_a_network_without_batch_statistics_are_read_back(tiny_config, tmp_path):
    tiny_config.model.norm, tiny_config.ema_decay, tiny_config.num_epochs = "group_norm", 0.9, 1
    result = resnet_jax.train(tiny_config, str(tmp_path / "run"))
    assert result["test"]["examples"] == 100
    export_weights(load_run(str(tmp_path / "run")), str(tmp_path / "weights.safetensors"))


def test_an_address_is_no_run_directory(monkeypatch):
    """Of hf://, that is: nothing may look for a directory of that name."""
    asked = []
    monkeypatch.setattr(hub, "download", lambda name: asked.append(name) or pathlib.Path("/nowhere/weights.pth"))
    with pytest.raises(UserError, match="there is no such file"):
        open_pretrained("hf://timm/resnet50")
    assert asked == ["hf://timm/resnet50"]
    with pytest.raises(UserError, match="there is no such file"):
        open_pretrained("https://example.org/weights.pth")


def test_a_directory_of_another_library_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"_name_or_path": "microsoft/resnet-50"}')
    with pytest.raises(UserError, match="give a run directory, or a file that ends in"):
        open_pretrained(str(tmp_path))


def test_weights_of_a_network_that_computes_otherwise_are_refused(workdir, tiny_config, single_device, tmp_path):
    """Nothing of that shows in a shape."""
    export_weights(load_run(workdir), str(tmp_path / "weights.safetensors"))
    tiny_config.model.blur_pool = True
    for path in (workdir, str(tmp_path / "weights.safetensors")):
        tiny_config.init_from = path
        with pytest.raises(UserError, match=r"were trained with model\.blur_pool=False"):
            begin(tiny_config, single_device)


def test_a_pooled_shortcut_of_ones_own_is_none_of_timm(tiny_config, single_device, tmp_path):
    """What is exported of a network that no library has is read back all the same."""
    tiny_config.model.shortcut, tiny_config.num_epochs = "average_pool", 1
    tiny_config.model.name = "pre_activation"
    resnet_jax.train(tiny_config, str(tmp_path / "run"))
    export_weights(load_run(str(tmp_path / "run")), str(tmp_path / "weights.safetensors"))
    tiny_config.init_from = str(tmp_path / "weights.safetensors")
    _, state, _ = begin(tiny_config, single_device)
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
    ],
    ids=str,
)
def test_damaged_metadata_is_an_error_in_a_sentence(workdir, tmp_path, damage):
    file = str(tmp_path / "weights.safetensors")
    export_weights(load_run(workdir), file)
    known = read(file)
    weight_files.write(file, weight_files.Weights(known.arrays, known.metadata | damage))
    with pytest.raises(UserError, match="is not as export writes it"):
        open_pretrained(file)


def test_weights_for_pictures_of_other_channels_are_refused(workdir, tiny_config):
    digits = open_sources("digits")["test"]
    colour = ArraySource(np.repeat(digits.images, 3, axis=-1), digits.labels, digits.classes)
    tiny_config.init_from = workdir
    with pytest.raises(UserError, match="mean and deviation are of 1 channels, and the pictures have 3"):
        load(tiny_config, {"test": colour})


def test_a_split_may_be_named_where_there_is_no_test(workdir, tiny_config):
    tiny_config.init_from, tiny_config.dataset.test_split = workdir, "none"
    sources = {"train": open_sources("digits")["train"]}
    assert load(tiny_config, sources).config.dataset.image_size == 8
    run = load(tiny_config, sources, "train[:50]")
    assert score_run(run, sources, "train[:50]", REPORTER)["examples"] == 50


@pytest.mark.slow
def test_a_published_network_has_its_published_accuracy(test_data, monkeypatch):
    """8.27 % error of akamaster's ResNet-20 on CIFAR-10, with no other setting than the file."""
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
