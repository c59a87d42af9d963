import dataclasses
import json
import shutil

import pytest

import resnet_jax
from resnet_jax.config import default
from resnet_jax.errors import UserError
from resnet_jax.report.collect import _validation, gather
from resnet_jax.report.page import render
from resnet_jax.terminal import Reporter


@pytest.fixture
def other_run(tiny_run, tmp_path):
    """A copy, in a directory of the same name."""
    return shutil.copytree(tiny_run, tmp_path / "other" / tiny_run.name)


def gathered(*workdirs, **settings):
    reporter = Reporter(active=False)
    result = gather([str(workdir) for workdir in workdirs], reporter, **settings)
    assert not reporter.unreadable
    return result


def test_a_finished_run_is_told_by_its_test_split(tiny_run):
    found = gathered(tiny_run)
    (run,) = found.runs
    result = json.loads((tiny_run / "result.json").read_text())
    assert found.split == "test[:100]" and run.result == result
    assert dataclasses.asdict(run.assessment.scores) == result["test"]
    assert (run.name, run.workdir, run.step) == ("tiny", str(tiny_run), result["checkpoint_step"])
    assert run.confusion.sum() == 100 and run.confusion.trace() == round(result["test"]["top1"] * 100)
    assert run.curves["validation/loss"].steps == [5, 10]
    names = [picture.name for gallery in run.galleries for picture in gallery.pictures]
    assert all(name.startswith("test[") for name in names)


def test_an_unfinished_run_is_told_by_its_validation_split(other_run):
    result = json.loads((other_run / "result.json").read_text())
    (other_run / "result.json").unlink()
    found = gathered(other_run)
    assert found.split == "validation" and found.runs[0].result is None
    assert dataclasses.asdict(found.runs[0].assessment.scores) == pytest.approx(result["validation"])
    assert "This run is not finished" in render(found)


def test_a_run_without_a_test_split_likewise(other_run):
    config = json.loads((other_run / "config.json").read_text())
    config["dataset"]["test_split"] = "none"
    (other_run / "config.json").write_text(json.dumps(config))
    assert gathered(other_run).split == "validation"


def test_a_run_without_validation_has_no_curves_of_it(tiny_config, tmp_path):
    tiny_config.num_epochs = 1
    tiny_config.dataset.validation_split = "none"
    resnet_jax.train(tiny_config, str(tmp_path))
    found = gathered(tmp_path)
    assert found.split == "test[:100]"
    assert not [name for name in found.runs[0].curves if name.startswith("validation/")]
    (tmp_path / "result.json").unlink()
    with pytest.raises(UserError, match="there is no validation split"):
        gathered(tmp_path)
    assert gathered(tmp_path, split="test[:50]").runs[0].assessment.scores.examples == 50


@pytest.mark.parametrize(
    ("train", "validation", "test", "told"),
    [
        ("train", "", "test", "validation"),
        ("train", "val", "test", "val"),
        ("train[1%:]", "train[:1%]", "validation", "train[:1%]"),
    ],
)
def test_of_an_unfinished_run_what_it_was_validated_on_is_scored(train, validation, test, told):
    dataset = default().dataset
    dataset.update(train_split=train, validation_split=validation, test_split=test)
    assert _validation(dataset) == told


def test_the_test_split_is_not_taken_for_validation_where_it_is_called_so():
    dataset = default().dataset
    dataset.update(train_split="train", validation_split="", test_split="validation")
    with pytest.raises(UserError, match="validation is another split: give --split"):
        _validation(dataset)


def test_a_run_is_not_compared_with_itself(tiny_run):
    with pytest.raises(UserError, match="is named twice"):
        gathered(tiny_run, f"{tiny_run}/")


def test_runs_are_compared_by_names_that_tell_them_apart(tiny_run, other_run):
    found = gathered(tiny_run, other_run)
    names = (str(tiny_run), str(other_run))
    assert tuple(run.name for run in found.runs) == names
    assert found.comparisons[names].p_value == 1.0
    assert found.ensemble.scores.top1 == found.runs[0].assessment.scores.top1


def test_streamed_pictures_are_named_and_shown(other_run):
    resident = gathered(other_run)
    config = json.loads((other_run / "config.json").read_text())
    config["dataset"].update(feed="streaming", eval_resize=8, eval_crop=8, num_workers=0)
    (other_run / "config.json").write_text(json.dumps(config))
    (galleries,), (expected,) = ([run.galleries for run in each.runs] for each in (gathered(other_run), resident))
    for gallery, same in zip(galleries, expected, strict=True):
        assert [(each.name, each.uri) for each in gallery.pictures] == [(each.name, each.uri) for each in same.pictures]
