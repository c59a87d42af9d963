"""Images with any number of labels, from training to the report, by the commands that users type."""

import csv
import json

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

import resnet_jax
from resnet_jax.data.sources import open_sources
from resnet_jax.diagnostics import replay
from resnet_jax.errors import UserError
from resnet_jax.export.weights import export_weights
from resnet_jax.pretrained.load import load_pretrained, load_pretrained_without_data, open_pretrained
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run
from resnet_jax.workdir.workdir import WorkDir
from tests.conftest import train_once
from tests.end_to_end.program import run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Images of up to two digits: 0 or 1 in the upper left, 2 or 3 in the lower right. The labels are the digits."""
    root = tmp_path_factory.mktemp("multi_label")
    source = open_sources("digits")["train"]
    members = {digit: np.flatnonzero(source.labels == digit) for digit in range(4)}
    generator = np.random.default_rng(0)
    rows = []
    for number in range(600):
        canvas, labels = np.zeros((16, 16), np.uint8), []
        for place, digits in ((slice(0, 8), (0, 1)), (slice(8, 16), (2, 3))):
            if generator.uniform() < 0.7:
                digit = int(generator.choice(digits))
                canvas[place, place] = source.images[generator.choice(members[digit])][..., 0]
                labels.append(str(digit))
        Image.fromarray(canvas).save(root / f"{number}.png")
        rows.append((f"{number}.png", "|".join(labels), "train" if number < 450 else "test"))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "labels", "split"), *rows])
    return root


@pytest.fixture
def config(tiny_config, dataset):
    tiny_config.dataset.name = f"csv:{dataset}/labels.csv"
    tiny_config.dataset.train_split, tiny_config.dataset.test_split = "train", "test"
    tiny_config.loss.name = "binary_cross_entropy"
    tiny_config.checkpoint.best_metric = "map"
    tiny_config.optimizer.name, tiny_config.optimizer.learning_rate = "adam", 0.02
    tiny_config.augment.crop_padding = 0
    tiny_config.batch_size, tiny_config.num_epochs = 32, 20
    return tiny_config


@pytest.fixture
def workdir(config, tmp_path_factory):
    return train_once(tmp_path_factory, "multi_label", lambda path: resnet_jax.train(config, str(path)))


@pytest.mark.slow
def test_model_learns_all_labels_of_an_image(workdir):
    result = json.loads((workdir / "result.json").read_text())
    assert result["test"]["map"] > 0.9
    assert result["test"]["f1"] > 0.8
    assert result["validation"]["examples"] == 45  # A tenth of the training split.


@pytest.mark.slow
def test_evaluate_reports_what_training_did(workdir):
    evaluated = run("evaluate", f"--workdir={workdir}", "--format=json", "--tta=flip")
    assert evaluated.returncode == 0, evaluated.stderr
    values = json.loads(evaluated.stdout.splitlines()[-1])
    expected = json.loads((workdir / "result.json").read_text())["test"]
    assert {name: values[name] for name in ("map", "f1", "top1", "examples")} == pytest.approx(
        {name: expected[name] for name in ("map", "f1", "top1", "examples")}, rel=1e-5
    )
    thresholds = json.loads((workdir / "thresholds.json").read_text())["thresholds"]
    assert {entry["name"]: entry["threshold"] for entry in values["classes"]} == pytest.approx(thresholds)
    assert values["tta"]["flip"]["map"] != values["map"]


@pytest.mark.slow
def test_predict_names_the_classes_above_their_thresholds(workdir, dataset):
    predicted = run("predict", f"--workdir={workdir}", "--format=json", str(dataset))
    assert predicted.returncode == 0, predicted.stderr
    pictures = json.loads(predicted.stdout.splitlines()[-1])["pictures"]
    with (dataset / "labels.csv").open() as file:
        truth = {row["image"]: set(row["labels"].split("|")) - {""} for row in csv.DictReader(file)}
    named = {
        picture["picture"].rpartition("/")[2]: {entry["class"] for entry in picture["best"]} for picture in pictures
    }
    assert np.mean([named[image] == labels for image, labels in truth.items()]) > 0.6
    assert {len(classes) for classes in named.values()} >= {0, 1, 2}
    trained = load_run(str(workdir))
    predictions = trained.predict([picture["picture"] for picture in pictures[:20]])
    assert [set(names.split(", ")) - {""} for names in predictions.names] == [
        {entry["class"] for entry in picture["best"]} for picture in pictures[:20]
    ]


@pytest.mark.slow
def test_report_shows_average_precision_and_no_confusion_matrix(workdir, tmp_path):
    pytest.importorskip("plotly")
    page = tmp_path / "report.html"
    reported = run("report", f"--workdir={workdir}", f"--to={page}")
    assert reported.returncode == 0, reported.stderr
    text = page.read_text()
    assert "mean average precision" in text and "Macro-F1" in text
    assert "Confusion matrix" not in text and "Most often confused" not in text


@pytest.mark.slow
def test_exported_file_gives_a_probability_per_class(workdir, dataset, tmp_path):
    exported = run("export", f"--workdir={workdir}", f"--to={tmp_path}/model.stablehlo")
    assert exported.returncode == 0, exported.stderr
    program = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    images = np.stack([np.asarray(Image.open(dataset / f"{number}.png").convert("RGB")) for number in range(4)])
    probabilities = jax.tree.leaves(program.call(images))[0]
    expected = load_run(str(workdir)).predict(images).probabilities
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected.sum(axis=-1), 1, atol=0.01)


@pytest.mark.slow
def test_weights_of_the_run_predict_any_number_of_labels(config, workdir, tmp_path):
    file = str(tmp_path / "weights.safetensors")
    export_weights(load_run(str(workdir)), file)
    config.dataset.multi_label = None
    for path in (str(workdir), file):
        weights = open_pretrained(path)
        assert load_pretrained(config, weights, open_sources(config.dataset.name)).is_multi_label
        assert load_pretrained_without_data(config, weights).is_multi_label


@pytest.mark.slow
def test_step_of_a_diverged_run_is_replayed(config, tmp_path):
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e30
    with pytest.raises(UserError, match=r"Examine them with: python main\.py debug_nan"):
        resnet_jax.train(config, str(tmp_path))
    directory = WorkDir(str(tmp_path))
    saved_step = replay.load(directory)
    assert any(value.not_finite for value in replay.replay(saved_step, directory.config(), directory.classes()))


@pytest.mark.slow
def test_explain_draws_examples_without_labels(workdir, tmp_path):
    arguments = ("explain", f"--workdir={workdir}", "--split=test")
    explained = run(*arguments, f"--to={tmp_path}/maps", "--examples=random:2")
    assert explained.returncode == 0, explained.stderr
    refused = run(*arguments, f"--to={tmp_path}/refused", "--examples=worst:2")
    assert refused.returncode == 2
    assert "--examples=worst:2 needs images with one label each" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.name": "softmax_cross_entropy"}, "need loss.name=binary_cross_entropy"),
        ({"loss.class_weights": "balanced"}, "class_weights .* needs images with one label each"),
        ({"dataset.sampler": "balanced"}, "sampler .* needs images with one label each"),
        ({"dataset.multi_label": False}, "contradicts the data, whose images have any number of labels"),
    ],
)
def test_settings_for_one_label_are_rejected(config, tmp_path, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        resnet_jax.train(config, str(tmp_path / "run"))


def test_map_needs_any_number_of_labels(tiny_config, tmp_path):
    tiny_config.checkpoint.best_metric = "map"
    with pytest.raises(UserError, match=r"checkpoint\.best_metric=map needs images with any number of labels"):
        resnet_jax.train(tiny_config, str(tmp_path / "run"))


def test_class_that_no_training_image_has_is_rejected(config, dataset, tmp_path):
    text = (dataset / "labels.csv").read_text()
    (dataset / "other.csv").write_text(text + f"../{dataset.name}/0.png,9,test\n")
    config.dataset.name = f"csv:{dataset}/other.csv"
    with pytest.raises(UserError, match=r"classes that no image of train has, or all images have \(9\)"):
        resnet_jax.train(config, str(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["calibrate", "folds"])
def test_tools_for_one_label_refuse(workdir, command):
    from resnet_jax.evaluation.calibration import calibrate_run
    from resnet_jax.studies.out_of_fold import predict_held_out

    with pytest.raises(UserError, match="any number of labels"):
        if command == "calibrate":
            calibrate_run(str(workdir), Reporter(active=False))
        else:
            predict_held_out([str(workdir)], Reporter(active=False))


def test_run_for_one_label_is_not_scored_on_images_with_any_number(tiny_run, dataset):
    evaluated = run("evaluate", f"--workdir={tiny_run}", f"--dataset=csv:{dataset}/labels.csv", "--split=test")
    assert evaluated.returncode == 2
    assert "predicts one label per image, and the data has any number of labels per image" in evaluated.stderr
