import dataclasses
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import open_sources
from resnet_jax.errors import UserError
from resnet_jax.evaluation import model_comparison
from resnet_jax.evaluation.metrics import example_metrics, summarize
from resnet_jax.evaluation.model_comparison import Evaluator, as_json, compare, ensemble, mcnemar
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run

LABELS = np.zeros(60, np.int32)


def metrics_of(logits, labels=LABELS):
    arrays = map(jnp.asarray, (logits, labels, np.arange(len(labels))))
    return parallel.fetch(example_metrics(*arrays, keep_log_probabilities=True))


def metrics_correct_on(*slices):
    """Return the metrics of a model that is correct only on the examples in these slices."""
    logits = np.zeros((60, 3), np.float32)
    logits[:, 1] = 1
    for examples in slices:
        logits[examples, 0] = 2
    return metrics_of(logits)


class TestMcNemar:
    def test_counts_examples_that_only_one_model_classifies_correctly(self):
        test = mcnemar(metrics_correct_on(slice(0, 20)), metrics_correct_on(slice(15, 20), slice(50, 55)))
        assert (test.only_first, test.only_second) == (15, 5)
        # Twice the sum of the binomial coefficients (20 choose k) for k from 0 to 5, divided by 2 ** 20.
        assert test.p_value == pytest.approx(2 * (1 + 20 + 190 + 1140 + 4845 + 15504) / 2**20)

    def test_agrees_with_statsmodels(self):
        contingency_tables = pytest.importorskip("statsmodels.stats.contingency_tables")
        result = mcnemar(metrics_correct_on(slice(0, 7)), metrics_correct_on(slice(5, 9)))
        table = [[0, result.only_first], [result.only_second, 0]]
        assert result.p_value == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue)

    def test_of_equal_predictions_has_a_p_value_of_one(self):
        assert mcnemar(metrics_correct_on(slice(0, 20)), metrics_correct_on(slice(0, 20))).p_value == 1.0

    def test_rejects_metrics_of_different_examples(self):
        other = metrics_of(np.zeros((60, 3), np.float32), np.ones(60, np.int32))
        with pytest.raises(ValueError, match="different examples"):
            mcnemar(metrics_correct_on(), other)


class TestEnsemble:
    def test_predicts_the_mean_of_the_probabilities(self):
        generator = np.random.default_rng(0)
        logits = generator.normal(size=(3, 60, 4)).astype(np.float32)
        labels = generator.integers(0, 4, 60).astype(np.int32)
        metrics = ensemble([metrics_of(model_logits, labels) for model_logits in logits])
        probabilities = np.exp(logits.astype(np.float64))
        mean = (probabilities / probabilities.sum(axis=-1, keepdims=True)).mean(axis=0)
        np.testing.assert_array_equal(metrics.prediction, mean.argmax(axis=-1))
        np.testing.assert_allclose(metrics.confidence, mean.max(axis=-1), rtol=1e-5)
        np.testing.assert_allclose(metrics.loss, -np.log(mean[np.arange(60), labels]), rtol=1e-5)

    def test_of_one_model_equals_that_model(self):
        single = metrics_correct_on(slice(0, 20))
        metrics = ensemble([single])
        np.testing.assert_allclose(metrics.loss, single.loss, rtol=1e-6)
        np.testing.assert_array_equal(metrics.prediction, single.prediction)

    def test_rejects_metrics_of_different_examples(self):
        other = metrics_of(np.zeros((60, 3), np.float32), np.ones(60, np.int32))
        with pytest.raises(ValueError, match="different examples"):
            ensemble([metrics_correct_on(), other])


@pytest.fixture
def run(tiny_run):
    return load_run(str(tiny_run))


def open_evaluator(models, **settings):
    return Evaluator.open(models, Reporter(active=False), **settings)


def means_of(evaluator, name="run"):
    scored = evaluator.score(name)
    assert not evaluator.reporter.unreadable
    return summarize(scored.metrics, len(evaluator.subset))


def with_reversed_classes(run):
    """Return the same model with its classes numbered in reverse."""
    head = jax.tree.map(lambda array: array[..., ::-1], run.variables["params"]["head"])
    variables = {**run.variables, "params": {**run.variables["params"], "head": head}}
    return dataclasses.replace(run, classes=run.classes[::-1], variables=variables)


@pytest.fixture
def folder_of_digits(tmp_path):
    """The name of a folder with the first 100 digits of the test split as image files, without those of class 7."""
    source = open_sources("digits")["test"]
    for index in range(100):
        image, label = source[index]
        if label != 7:
            path = tmp_path / "train" / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            Image.fromarray(image[..., 0]).save(file, "PNG")
            path.write_bytes(file.getvalue())
    return f"folder:{tmp_path}"


class TestEvaluator:
    def test_scores_the_test_split_as_training_does_at_its_end(self, run, tiny_run):
        evaluator = open_evaluator({"run": run})
        assert evaluator.split == "test[:100]"
        assert dataclasses.asdict(means_of(evaluator)) == json.loads((tiny_run / "result.json").read_text())["test"]

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_validation_means_the_examples_held_out_in_training(self, run, tiny_run, feed):
        run.config.dataset.update(feed=feed, eval_resize=8, eval_crop=8)
        validation = json.loads((tiny_run / "result.json").read_text())["validation"]
        evaluator = open_evaluator({"run": run}, split="validation")
        assert dataclasses.asdict(means_of(evaluator)) == pytest.approx(validation)

    @pytest.mark.parametrize(
        ("validation_split", "name"), [("", "10% of train[:400]"), ("train[400:440]", "train[400:440]")]
    )
    def test_own_validation_is_not_a_split_called_validation(self, run, monkeypatch, validation_split, name):
        digits = open_sources("digits")
        sources = {**digits, "validation": digits["test"]}
        monkeypatch.setattr(model_comparison, "open_sources", lambda *_: sources)
        run.config.dataset.validation_split = validation_split
        evaluator = Evaluator.open_own_validation({"run": run}, Reporter(active=False))
        assert (evaluator.split, len(evaluator.subset)) == (name, 40)
        assert all(evaluator.subset.name(index).startswith("train[") for index in range(40))
        assert means_of(evaluator).examples == 40

    def test_own_validation_of_different_runs_is_refused(self, run):
        other = dataclasses.replace(run, config=run.config.copy_and_resolve_references())
        other.config.dataset.validation_split = "train[400:440]"
        with pytest.raises(UserError, match="these runs were validated on different examples"):
            Evaluator.open_own_validation({"run": run, "other": other}, Reporter(active=False))

    def test_reads_examples_once_per_bit_depth(self, run):
        configs = [run.config.copy_and_resolve_references() for _ in range(3)]
        for config, bit_depth in zip(configs, (12, 16, 12), strict=True):
            config.dataset.bit_depth = bit_depth
        models = {str(number): dataclasses.replace(run, config=config) for number, config in enumerate(configs)}
        evaluator = open_evaluator(models)
        first, second, third = map(evaluator.open_examples, models.values())
        assert first is third
        assert first is not second

    def test_rejects_validation_of_a_run_without_validation(self, run):
        run.config.dataset.validation_split = "none"
        with pytest.raises(UserError, match="the run has no validation split"):
            open_evaluator({"run": run}, split="validation")

    def test_matches_classes_of_another_dataset_by_name(self, run, folder_of_digits):
        """The folder has nine of the ten classes, so class numbers differ. Its images are decoded to gray."""
        evaluator = open_evaluator({"run": run}, split="train", dataset=folder_of_digits)
        metrics = evaluator.score("run").metrics
        digits = open_evaluator({"run": run}).score("run").metrics
        kept = digits.label != 7
        assert len(evaluator.subset.classes) == 9 and kept.sum() == len(metrics.label)
        actual, expected = (
            sorted(zip(scored.label.tolist(), scored.prediction.tolist(), scored.loss.round(4).tolist(), strict=True))
            for scored in (metrics, jax.tree.map(lambda array: array[kept], digits))
        )
        assert actual == expected

    def test_rejects_a_dataset_with_unknown_classes(self, run, folder_of_digits, tmp_path):
        (tmp_path / "train" / "7").mkdir()
        (tmp_path / "train" / "eleven").mkdir()
        with pytest.raises(UserError, match=r"classes that this model does not know \(eleven\)"):
            open_evaluator({"run": run}, split="train", dataset=folder_of_digits).score("run")

    def test_requires_a_split_unless_the_dataset_has_one_split_or_a_test_split(self, run, folder_of_digits, tmp_path):
        assert open_evaluator({"run": run}, dataset=folder_of_digits).split == "train"
        shutil.copytree(tmp_path / "train", tmp_path / "val")
        with pytest.raises(UserError, match=r"there is no test split\. Choose a split with --split \(train, val\)"):
            open_evaluator({"run": run}, dataset=folder_of_digits)
        assert open_evaluator({"run": run}, dataset=folder_of_digits, split="validation").split == "validation"

    def test_rejects_models_with_different_classes(self, run):
        other = dataclasses.replace(run, classes=tuple("abcdefghij"))
        with pytest.raises(UserError, match="other and run have different classes"):
            open_evaluator({"run": run, "other": other})


def test_runs_validated_on_different_examples_are_not_scored_on_validation(run):
    other = dataclasses.replace(run, config=run.config.copy_and_resolve_references())
    other.config.dataset.validation_split = "fold:2/5"
    with pytest.raises(UserError, match="validated on different examples"):
        open_evaluator({"run": run, "other": other}, split="validation")


class TestCompare:
    def test_renumbers_classes_of_models_that_order_them_differently(self, run):
        evaluator = open_evaluator({"run": run, "again": with_reversed_classes(run)})
        first, second = evaluator.score("run").metrics, evaluator.score("again").metrics
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, second)
        comparison = compare(evaluator)
        assert comparison.mcnemar["run", "again"].p_value == 1.0
        assert comparison.ensemble.means.top1 == comparison.reports["run"].means.top1
        assert comparison.ensemble.means.loss == pytest.approx(comparison.reports["run"].means.loss, rel=1e-5)

    def test_results_are_valid_json(self, run):
        values = as_json(compare(open_evaluator({"run": run}), tta="flip"), {"run": run})
        assert json.loads(json.dumps(values)) == json.loads(json.dumps(values, allow_nan=False))
        assert (values["workdir"], values["checkpoint_step"], values["split"]) == ("run", 10, "test[:100]")
        assert values["top1_interval"][0] < values["top1"] < values["top1_interval"][1]
        assert values["tta"]["flip"]["loss"] != values["loss"]
        several = as_json(compare(open_evaluator({"run": run, "again": run})), {"run": run, "again": run})
        assert [run_values["workdir"] for run_values in several["runs"]] == ["run", "again"]
        assert several["comparisons"] == [
            {"first": "run", "second": "again", "only_first": 0, "only_second": 0, "p_value": 1.0}
        ]
