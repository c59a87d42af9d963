import json
import re

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.studies import label_errors
from resnet_jax.studies.out_of_fold import HeldOutPredictions
from tests.end_to_end.program import run


def noisy_predictions(size=2000, noise=0.1, classes=4):
    """Return given labels, true labels, and probabilities of a model that is right in most cases."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, size)
    flipped = generator.uniform(size=size) < noise
    labels = np.where(flipped, (truth + generator.integers(1, classes, size)) % classes, truth)
    logits = 3 * np.eye(classes)[truth] + generator.normal(size=(size, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return labels, truth, probabilities


def test_confident_class_is_the_most_probable_one_above_its_threshold():
    labels, _, probabilities = noisy_predictions(300)
    thresholds = [
        np.mean([p[c] for p, label in zip(probabilities, labels, strict=True) if label == c]) for c in range(4)
    ]
    for p, confident in zip(probabilities, label_errors.confident_classes(labels, probabilities), strict=True):
        candidates = [c for c in range(4) if p[c] >= thresholds[c]]
        assert confident == (max(candidates, key=lambda c: p[c]) if candidates else -1)


def test_class_that_the_model_is_never_sure_of_is_not_doubted():
    """Class 1 never has more than 40 %. By the most probable class, all of its labels would be doubtful."""
    labels = np.repeat([0, 1], 50)
    probabilities = np.where(labels[:, None] == 0, [[0.9, 0.1]], [[0.6, 0.4]])
    assert len(label_errors.rank(labels, probabilities)) == 0


def test_class_without_examples_is_not_suggested():
    labels, probabilities = np.array([0, 0]), np.array([[0.4, 0.6], [0.7, 0.3]])
    assert label_errors.confident_classes(labels, probabilities).tolist() == [-1, 0]


def test_wrong_labels_are_ranked_first():
    labels, truth, probabilities = noisy_predictions()
    ranked = label_errors.rank(labels, probabilities)
    wrong = np.flatnonzero(labels != truth)
    first = ranked[: len(wrong) // 2]
    assert np.isin(first, wrong).mean() > 0.95
    margins = [probabilities[i, labels[i]] - probabilities[i].max() for i in ranked]
    assert np.corrcoef(margins, np.arange(len(margins)))[0, 1] > 0.9


def test_rank_agrees_with_cleanlab():
    cleanlab = pytest.importorskip("cleanlab")
    labels, _, probabilities = noisy_predictions()
    expected = cleanlab.count.compute_confident_joint(labels, probabilities, return_indices_of_off_diagonals=True)[1]
    assert set(label_errors.rank(labels, probabilities)) == set(expected)


class TestOutput:
    @pytest.fixture
    def predictions(self):
        subset = Subset.from_split(open_sources("digits"), "train[:3]")
        labels = np.array([subset[position][1] for position in range(3)])
        probabilities = np.full((3, 10), 0.01)
        probabilities[np.arange(3), [labels[0], (labels[1] + 1) % 10, labels[2]]] = 0.91
        examples = tuple(map(subset.name, range(3)))
        return HeldOutPredictions(
            ("run",) * 3, examples, subset.classes, labels, probabilities, tuple((subset, i) for i in range(3))
        )

    def test_doubtful_label_names_example_label_and_suggestion(self):
        """The case of the docstring of `confident_classes`: only the second label is doubtful."""
        probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
        examples = tuple(f"train[{index}]" for index in range(4))
        labels = np.array([0, 0, 1, 1])
        predictions = HeldOutPredictions(("run",) * 4, examples, ("cat", "dog"), labels, probabilities, ())
        indices, doubtful = label_errors.find_doubtful_labels(predictions)
        assert indices.tolist() == [1]
        assert doubtful == [label_errors.DoubtfulLabel("train[1]", "cat", "dog", 0.2, 0.8)]
        text = label_errors.format_doubtful_labels(doubtful, 4, "sheet.png")
        assert re.search(r"train\[1\] +cat +dog +20\.00% +80\.00%", text)
        assert "1 of 4 labels are doubtful (25.0%), by confident learning." in text
        empty = label_errors.format_doubtful_labels([], 4, None)
        assert empty == "0 of 4 labels are doubtful (0.0%), by confident learning."

    def test_contact_sheet_shows_the_doubtful_images(self, predictions, tmp_path):
        path = str(tmp_path / "sheet.png")
        assert label_errors.write_contact_sheet(path, predictions, np.array([1, 0])) == path
        with Image.open(path) as sheet:
            assert sheet.size[0] > 2 * 96
        assert label_errors.write_contact_sheet(path, predictions, np.array([], int)) is None


def write_noisy_digits(folder, noise):
    """Write digits as PNG files in a directory per class. Return the names of the files in a wrong directory."""
    generator = np.random.default_rng(1)
    source = open_sources("digits")["train"]
    wrong = set()
    for index in range(len(source)):
        image, label = source[index]
        name = f"{index}.png"
        if generator.uniform() < noise:
            label = (label + generator.integers(1, 10)) % 10
            wrong.add(name)
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / str(label) / name)
    return wrong


@pytest.mark.slow
def test_planted_label_errors_are_found_with_high_precision_and_recall(tmp_path):
    wrong = write_noisy_digits(tmp_path / "images" / "train", noise=0.05)
    recipe = (
        "--config=tests/studies/tiny_recipe.py",
        f"--config.dataset.name=folder:{tmp_path}/images",
        "--config.dataset.train_split=train",
        "--config.num_epochs=40",
        "--config.evaluate_every_epochs=10",
        "--config.checkpoint.every_epochs=40",
        "--config.augment.crop_padding=1",
    )
    folds = run("repeat", *recipe, "--folds=4", f"--workdir={tmp_path}/folds")
    assert folds.returncode == 0, folds.stderr
    sheet = f"--contact_sheet={tmp_path}/sheet.png"
    inspected = run("inspect", f"--labels={tmp_path}/folds", "--format=json", sheet)
    assert inspected.returncode == 0, inspected.stderr
    values = json.loads(inspected.stdout.splitlines()[-1])
    found = {entry["example"].rpartition("/")[2] for entry in values["doubtful"]}
    precision, recall = len(found & wrong) / len(found), len(found & wrong) / len(wrong)
    print(f"{len(wrong)} planted, precision {precision:.3f}, recall {recall:.3f}")
    assert precision >= 0.9 and recall >= 0.8
    assert values["examples"] == 1438


def test_runs_validated_on_the_same_examples_are_rejected(tiny_run):
    from resnet_jax.studies.out_of_fold import predict_held_out
    from resnet_jax.terminal import Reporter

    with pytest.raises(UserError, match="validated on the same examples"):
        predict_held_out([str(tiny_run), str(tiny_run)], Reporter(active=False))
