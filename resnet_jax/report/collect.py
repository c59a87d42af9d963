"""Data of a report: the records in the run directories, and the scores of the trained models."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.data import class_matching, splits
from resnet_jax.evaluation import multi_label
from resnet_jax.evaluation.evaluate import multi_label_results
from resnet_jax.evaluation.metrics import ClassificationReport, confusion_matrix
from resnet_jax.evaluation.model_comparison import Evaluator, McNemar, check_distinct, compare
from resnet_jax.evaluation.multi_label import MultiLabelReport
from resnet_jax.evaluation.validation import worst_mistakes
from resnet_jax.inference.overlays import grad_cam_overlays
from resnet_jax.report import pretraining_images
from resnet_jax.report.example_images import Gallery, choose_galleries, multi_label_gallery
from resnet_jax.report.pretraining_images import Composite
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel, load_run
from resnet_jax.training.metrics_writer import Curve, read_curves
from resnet_jax.workdir.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """A run and the scores of its model.

    Attributes:
      name: the name of the run on the page.
      workdir: the run directory.
      config: the resolved settings.
      result: the content of `result.json`; None for an unfinished run.
      step: the step of the checkpoint that was scored.
      temperature: the divisor of the logits; 1.0 unless the run is calibrated.
      parameters: number of parameters of the model.
      curves: training curves by name, such as "train/loss".
      metrics: the metrics of the model on the split; None after pre-training, whose model predicts nothing.
      confusion: number of examples of each class (rows) by predicted class (columns): int [classes, classes]; None for
        any number of labels per image, and after pre-training.
      galleries: example images with their predictions.
      composites: composite images of a pre-trained model.
    """

    name: str
    workdir: str
    config: ConfigDict
    result: dict | None
    step: int
    temperature: float
    parameters: int
    curves: Mapping[str, Curve]
    metrics: ClassificationReport | MultiLabelReport | None
    confusion: np.ndarray | None
    galleries: Sequence[Gallery]
    composites: Sequence[Composite] = ()


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Runs whose models have been scored on the same examples.

    Attributes:
      split: the split that was scored, such as "test".
      classes: the names of the classes.
      runs: one or more runs with different names.
      ensemble: the metrics of the ensemble of all models; None for a single run, or any number of labels per image.
      mcnemar: McNemar's test, by pair of run names; empty for any number of labels per image.
    """

    split: str
    classes: tuple[str, ...]
    runs: tuple[ReportedRun, ...]
    ensemble: ClassificationReport | None
    mcnemar: Mapping[tuple[str, str], McNemar]

    @property
    def is_multi_label(self) -> bool:
        """True if an image may have any number of labels."""
        return isinstance(self.runs[0].metrics, MultiLabelReport)

    @property
    def is_pretraining(self) -> bool:
        """True if the runs were pre-trained without labels."""
        return self.runs[0].metrics is None


def collect(
    workdirs: Sequence[str], reporter: Reporter, split: str | None = None, data_dir: str | None = None
) -> ReportData:
    """Read run directories and score their models.

    Args:
      workdirs: one or more run directories.
      reporter: shows the progress, and counts the images that cannot be read.
      split: a split of the first run's dataset; None: its test split. But if that run has no test split, or any of the
        runs is unfinished, None stands for the examples on which the first run was validated, because the test split is
        reserved for the final result.
      data_dir: where the data is; None: where it was in training.

    Raises:
      UserError: as `load_run`, `Evaluator.open` and `Evaluator.score` do, and for a run directory that is given twice.
    """
    check_distinct(workdirs)
    directories = {name: WorkDir(workdir) for name, workdir in _run_names(workdirs).items()}
    models = {name: load_run(str(directory.path)) for name, directory in directories.items()}
    results = {name: directory.result() for name, directory in directories.items()}

    def describe_run(
        name: str,
        metrics: ClassificationReport | MultiLabelReport | None,
        confusion: np.ndarray | None,
        galleries: Sequence[Gallery],
        composites: Sequence[Composite] = (),
    ) -> ReportedRun:
        model = models[name]
        return ReportedRun(
            name=name,
            workdir=str(directories[name].path),
            config=model.config,
            result=results[name],
            step=model.step,  # type: ignore[arg-type]  # None only for pretrained weights
            temperature=model.temperature,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(model.variables["params"])),
            curves=read_curves(directories[name].path),
            metrics=metrics,
            confusion=confusion,
            galleries=galleries,
            composites=composites,
        )

    if not any(model.classes for model in models.values()):
        pretrained_runs = (
            describe_run(name, None, None, (), pretraining_images.draw(model, reporter, data_dir))
            for name, model in models.items()
        )
        return ReportData("", (), tuple(pretrained_runs), ensemble=None, mcnemar={})

    test_split = next(iter(models.values())).config.dataset.test_split
    if split is None and (test_split == splits.NO_SPLIT or not all(results.values())):
        evaluator = Evaluator.open_own_validation(models, reporter, data_dir)
    else:
        evaluator = Evaluator.open(models, reporter, split, data_dir=data_dir)

    if evaluator.subset.label_sets is not None:
        scored_runs = [describe_run(name, *_score_multi_label(evaluator, name)) for name in models]
        return ReportData(evaluator.split, evaluator.classes, tuple(scored_runs), ensemble=None, mcnemar={})

    comparison = compare(evaluator)

    def describe_scored_run(name: str, model: TrainedModel) -> ReportedRun:
        scored = comparison.scored[name]
        galleries = choose_galleries(
            scored,
            class_matching.distinct(evaluator.classes),
            evaluator.subset.name,
            lambda images: grad_cam_overlays(model, images),
        )
        confusion = confusion_matrix(scored.metrics, len(evaluator.classes))
        return describe_run(name, comparison.reports[name], confusion, galleries)

    return ReportData(
        split=evaluator.split,
        classes=evaluator.classes,
        runs=tuple(describe_scored_run(name, model) for name, model in models.items()),
        ensemble=comparison.ensemble,
        mcnemar=comparison.mcnemar,
    )


def _score_multi_label(evaluator: Evaluator, name: str) -> tuple[MultiLabelReport, None, list[Gallery]]:
    """Return the metrics of a model, None in place of a confusion matrix, and the gallery of its worst mistakes."""
    model = evaluator.models[name]
    examples = evaluator.open_examples(model)
    results, label_sets = multi_label_results(model, examples, evaluator.subset, evaluator.reporter)
    metrics = multi_label.report(results, label_sets, model.classes, len(evaluator.subset), model.thresholds)
    mistakes = worst_mistakes(results, label_sets, model.classes, model.thresholds)
    return metrics, None, multi_label_gallery(mistakes, examples, evaluator.subset.name)


def _run_names(workdirs: Sequence[str]) -> dict[str, str]:
    """Return the run directories by their base names, or by their whole paths if base names occur twice."""
    base_names = [os.path.basename(os.path.normpath(workdir)) for workdir in workdirs]
    names = base_names if len(set(base_names)) == len(base_names) else workdirs
    return dict(zip(names, workdirs, strict=True))
