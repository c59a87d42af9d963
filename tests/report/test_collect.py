import dataclasses
import json
import shutil

import pytest

import resnet_jax
from resnet_jax.errors import UserError
from resnet_jax.report.collect import collect
from resnet_jax.report.page import render
from resnet_jax.terminal import Reporter


@pytest.fixture
def other_run(tiny_run, tmp_path):
    """A copy of the tiny run, in a directory of the same name."""
    return shutil.copytree(tiny_run, tmp_path / "other" / tiny_run.name)


def collected(*workdirs, **settings):
    reporter = Reporter(active=False)
    data = collect([str(workdir) for workdir in workdirs], reporter, **settings)
    assert not reporter.unreadable
    return data


def test_finished_run_is_scored_on_its_test_split(tiny_run):
    data = collected(tiny_run)
    (run,) = data.runs
    result = json.loads((tiny_run / "result.json").read_text())
    assert data.split == "test[:100]" and run.result == result
    assert dataclasses.asdict(run.metrics.means) == result["test"]
    assert (run.name, run.workdir, run.step) == ("tiny", str(tiny_run), result["checkpoint_step"])
    assert run.confusion.sum() == 100 and run.confusion.trace() == round(result["test"]["top1"] * 100)
    assert run.curves["validation/loss"].steps == [5, 10]
    names = [image.name for gallery in run.galleries for image in gallery.images]
    assert all(name.startswith("test[") for name in names)


def test_unfinished_run_is_scored_on_its_validation_split(other_run):
    result = json.loads((other_run / "result.json").read_text())
    (other_run / "result.json").unlink()
    data = collected(other_run)
    assert data.split == "validation" and data.runs[0].result is None
    assert dataclasses.asdict(data.runs[0].metrics.means) == pytest.approx(result["validation"])
    assert "This run is not finished" in render(data)


def test_run_without_test_split_is_scored_on_its_validation_split(other_run):
    config = json.loads((other_run / "config.json").read_text())
    config["dataset"]["test_split"] = "none"
    (other_run / "config.json").write_text(json.dumps(config))
    assert collected(other_run).split == "validation"


@pytest.mark.slow
def test_run_without_validation_has_no_validation_curves(tiny_config, tmp_path):
    tiny_config.num_epochs = 1
    tiny_config.dataset.validation_split = "none"
    resnet_jax.train(tiny_config, str(tmp_path))
    data = collected(tmp_path)
    assert data.split == "test[:100]"
    assert not [name for name in data.runs[0].curves if name.startswith("validation/")]
    (tmp_path / "result.json").unlink()
    with pytest.raises(UserError, match="the run has no validation split"):
        collected(tmp_path)
    assert collected(tmp_path, split="test[:50]").runs[0].metrics.means.examples == 50


def test_run_is_not_compared_with_itself(tiny_run):
    with pytest.raises(UserError, match="is given twice"):
        collected(tiny_run, f"{tiny_run}/")


@pytest.mark.slow
def test_runs_with_equal_base_names_are_named_by_their_paths(tiny_run, other_run):
    data = collected(tiny_run, other_run)
    names = (str(tiny_run), str(other_run))
    assert tuple(run.name for run in data.runs) == names
    assert data.mcnemar[names].p_value == 1.0
    assert data.ensemble.means.top1 == data.runs[0].metrics.means.top1


@pytest.mark.slow
def test_streamed_images_are_shown_like_resident_ones(other_run):
    resident = collected(other_run)
    config = json.loads((other_run / "config.json").read_text())
    config["dataset"].update(feed="streaming", eval_resize=8, eval_crop=8, num_workers=0)
    (other_run / "config.json").write_text(json.dumps(config))
    streamed = collected(other_run)

    def names_and_uris(data):
        return [[(image.name, image.uri) for image in gallery.images] for gallery in data.runs[0].galleries]

    assert names_and_uris(streamed) == names_and_uris(resident)
