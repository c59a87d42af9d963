import json

import pytest

from resnet_jax.errors import UserError
from resnet_jax.studies.study import Outcome, Study, finished_runs


def test_reopened_study_knows_its_runs_and_outcomes(tmp_path, recipe):
    study = Study(str(tmp_path / "study"), "seeds", recipe)
    study.add("seed0", {"seed": 0})
    study.add("seed1", {"seed": 1})
    study.record("seed0", Outcome.FINISHED)
    reopened = Study(str(tmp_path / "study"), "seeds", recipe)
    assert reopened.changes == {"seed0": {"seed": 0}, "seed1": {"seed": 1}}
    assert reopened.outcomes == {"seed0": Outcome.FINISHED}


def test_run_has_the_command_line_that_trains_it_alone(tmp_path, recipe):
    recipe = recipe.changed({"augment.randaugment": (2, 9)})
    run = Study(str(tmp_path), "seeds", recipe).add("seed3", {"seed": 3})
    assert run.recipe.config.seed == 3
    assert run.arguments() == [
        f"--config={recipe.path}",
        "--config.num_epochs=3",
        "--config.augment.randaugment=(2, 9)",
        "--config.seed=3",
        f"--workdir={tmp_path}/seed3",
    ]


@pytest.mark.parametrize(
    ("kind", "fixed", "message"), [("grid", {}, "kind seeds, now grid"), ("seeds", {"folds": 3}, "folds None, now 3")]
)
def test_directory_of_another_study_is_refused(tmp_path, recipe, kind, fixed, message):
    Study(str(tmp_path), "seeds", recipe).add("seed0", {"seed": 0})
    with pytest.raises(UserError, match=message):
        Study(str(tmp_path), kind, recipe, fixed)


def test_run_directory_is_refused(tmp_path, recipe):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="directory of a single run"):
        Study(str(tmp_path), "seeds", recipe)


def test_bucket_is_refused(recipe):
    with pytest.raises(UserError, match="needs a directory on this machine"):
        Study("gs://bucket/study", "seeds", recipe)


@pytest.mark.parametrize("content", ["{", "[]", '{"runs": ["seed0"]}', '{"kind": "seeds"}'])
def test_damaged_file_is_named(tmp_path, recipe, content):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=r"study\.json is damaged"):
        Study(str(tmp_path), "seeds", recipe)


def test_path_that_cannot_be_read_is_named():
    with pytest.raises(UserError, match=r"cannot read a+ \(File name too long\)\. Check --workdir\."):
        finished_runs(["a" * 300])


def test_finished_runs_replace_the_directory_of_their_study(tmp_path, recipe):
    study = Study(str(tmp_path / "study"), "seeds", recipe)
    for name in ("seed0", "seed1"):
        study.add(name, {})
    with pytest.raises(UserError, match=r"no run of the study .* is finished"):
        finished_runs([str(study.path)])
    (study.path / "seed1").mkdir()
    (study.path / "seed1" / "result.json").write_text(json.dumps({}))
    assert finished_runs([str(study.path), "/tmp/run"]) == [str(study.path / "seed1"), "/tmp/run"]
