import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import open_sources
from resnet_jax.errors import UserError
from resnet_jax.evaluation.metrics import summarize
from resnet_jax.evaluation.model_comparison import Trial, as_json, judge
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run


@pytest.fixture
def run(tiny_run):
    return load_run(str(tiny_run))


def open_trial(runs, **settings):
    return Trial.open(runs, Reporter(active=False), **settings)


def scores(trial, name="run"):
    return summarize(trial.score(name).outcomes, len(trial.selection))


def renamed(run):
    """The same network, which numbers the classes the other way round."""
    head = jax.tree.map(lambda array: array[..., ::-1], run.variables["params"]["head"])
    variables = {**run.variables, "params": {**run.variables["params"], "head": head}}
    return dataclasses.replace(run, classes=run.classes[::-1], variables=variables)


@pytest.fixture
def folder_of_digits(tmp_path):
    """The digits of the test split as picture files, but for those of one class."""
    source = open_sources("digits")["test"]
    for index in range(100):
        image, label = source[index]
        if label != 7:
            place = tmp_path / "train" / str(label) / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            Image.fromarray(image[..., 0]).save(file, "PNG")
            place.write_bytes(file.getvalue())
    return f"folder:{tmp_path}"


def test_the_test_split_is_scored_as_at_the_end_of_training(run, tiny_run):
    trial = open_trial({"run": run})
    assert trial.split == "test[:100]"
    assert dataclasses.asdict(scores(trial)) == json.loads((tiny_run / "result.json").read_text())["test"]


@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_validation_is_what_was_held_out_in_training(run, tiny_run, feed):
    run.config.dataset.update(feed=feed, eval_resize=8, eval_crop=8)
    validation = json.loads((tiny_run / "result.json").read_text())["validation"]
    assert dataclasses.asdict(scores(open_trial({"run": run}, split="validation"))) == pytest.approx(validation)


def test_a_run_without_validation_has_none_to_score(run):
    run.config.dataset.validation_split = "none"
    with pytest.raises(UserError, match="there is no validation split"):
        open_trial({"run": run}, split="validation")


def test_other_data_is_scored_by_the_names_of_its_classes(run, folder_of_digits):
    """Nine of the ten classes, so that their numbers are others; as colour pictures would be, decoded to grey."""
    trial = open_trial({"run": run}, split="train", dataset=folder_of_digits)
    outcomes = trial.score("run").outcomes
    digits = open_trial({"run": run}).score("run").outcomes
    kept = digits.label != 7
    assert len(trial.selection.classes) == 9 and kept.sum() == len(outcomes.label)
    found, expected = (
        sorted(zip(of.label.tolist(), of.prediction.tolist(), of.loss.round(4).tolist(), strict=True))
        for of in (outcomes, jax.tree.map(lambda array: array[kept], digits))
    )
    assert found == expected


def test_data_with_classes_that_are_unknown_is_refused(run, folder_of_digits, tmp_path):
    (tmp_path / "train" / "7").mkdir()
    (tmp_path / "train" / "eleven").mkdir()
    with pytest.raises(UserError, match="of which it does not know eleven"):
        open_trial({"run": run}, split="train", dataset=folder_of_digits).score("run")


def test_data_without_a_test_split_has_to_be_told_which_unless_it_has_one_only(run, folder_of_digits, tmp_path):
    assert open_trial({"run": run}, dataset=folder_of_digits).split == "train"
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    with pytest.raises(UserError, match="there is no test split: name another with --split, of train, val"):
        open_trial({"run": run}, dataset=folder_of_digits)
    assert open_trial({"run": run}, dataset=folder_of_digits, split="validation").split == "validation"


def test_networks_that_number_classes_otherwise_can_be_compared(run):
    trial = open_trial({"run": run, "again": renamed(run)})
    one, other = trial.score("run").outcomes, trial.score("again").outcomes
    jax.tree.map(lambda first, second: np.testing.assert_allclose(first, second, rtol=1e-5), one, other)
    results = judge(trial)
    assert results.comparisons["run", "again"].p_value == 1.0
    assert results.ensemble.scores.top1 == results.networks["run"].scores.top1
    assert results.ensemble.scores.loss == pytest.approx(results.networks["run"].scores.loss, rel=1e-5)


def test_networks_of_other_classes_are_not_compared(run):
    other = dataclasses.replace(run, classes=tuple("abcdefghij"))
    with pytest.raises(UserError, match="other tells other classes apart than run"):
        open_trial({"run": run, "other": other})


def test_results_are_json_values(run):
    values = as_json(judge(open_trial({"run": run}), tta="flip"), {"run": 10})
    assert json.loads(json.dumps(values)) == json.loads(json.dumps(values, allow_nan=False))
    assert (values["workdir"], values["checkpoint_step"], values["split"]) == ("run", 10, "test[:100]")
    assert values["top1_interval"][0] < values["top1"] < values["top1_interval"][1]
    assert values["tta"]["flip"]["loss"] != values["loss"]
    several = as_json(judge(open_trial({"run": run, "again": run})), {"run": 10, "again": 10})
    assert [each["workdir"] for each in several["runs"]] == ["run", "again"]
    assert several["comparisons"] == [
        {"first": "run", "second": "again", "only_first": 0, "only_second": 0, "p_value": 1.0}
    ]
