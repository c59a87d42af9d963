"""All that a report tells of: what runs left in their directories, and how their networks answer."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.data import splits
from resnet_jax.data.dataset import VALIDATION
from resnet_jax.errors import UserError
from resnet_jax.evaluation.metrics import Assessment, confusion_matrix
from resnet_jax.evaluation.model_comparison import McNemar, Trial, check_distinct, judge
from resnet_jax.report.example_images import Gallery, choose
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel, load_run
from resnet_jax.training.metrics_writer import Curve, read_curves
from resnet_jax.workdir.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """A run and its network.

    Attributes:
      name: what it is called on the page.
      workdir: its directory.
      config: the resolved settings.
      result: what `result.json` holds; None while the run is not done.
      step: of the checkpoint that was scored.
      parameters: of the network.
      curves: how its figures went, by names like "train/loss".
      assessment: its answers, judged.
      confusion: how many examples of each class (rows) were taken for each: int [classes, classes].
      galleries: pictures and what it said of them.
    """

    name: str
    workdir: str
    config: ConfigDict
    result: dict | None
    step: int
    parameters: int
    curves: Mapping[str, Curve]
    assessment: Assessment
    confusion: np.ndarray
    galleries: Sequence[Gallery]


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Runs whose networks were scored on the same examples.

    Attributes:
      split: what these are, such as "test".
      classes: the names of the classes.
      runs: one or more, by other names.
      ensemble: what several say together; None of one alone.
      comparisons: McNemar's test, by pairs of their names.
    """

    split: str
    classes: tuple[str, ...]
    runs: tuple[ReportedRun, ...]
    ensemble: Assessment | None
    comparisons: Mapping[tuple[str, str], McNemar]


def gather(
    workdirs: Sequence[str],
    reporter: Reporter,
    split: str | None = None,
    data_dir: str | None = None,
) -> Gathered:
    """Reads run directories, and scores their networks.

    Args:
      workdirs: one or more.
      reporter: shows the progress, and counts the images that cannot be read.
      split: of the data set of the first; unset: the test split, or what it was validated on, where there is no test
        split or a run is not finished, for the test split is for the end.
      data_dir: where the data is; unset: as in training.

    Raises:
      UserError: as `load_run`, `Trial.open` and `Trial.score` do, and for a directory that is named twice.
    """
    check_distinct(workdirs)
    directories = {name: WorkDir(workdir) for name, workdir in _names(workdirs).items()}
    networks = {name: load_run(str(directory.path)) for name, directory in directories.items()}
    results = {name: directory.result() for name, directory in directories.items()}
    if split is None:
        dataset = next(iter(networks.values())).config.dataset
        if dataset.test_split == "none" or not all(results.values()):
            split = _validation(dataset)
    trial = Trial.open(networks, reporter, split, data_dir=data_dir)
    judged = judge(trial)

    def reported(name: str, network: TrainedModel) -> ReportedRun:
        scored = judged.scored[name]
        return ReportedRun(
            name=name,
            workdir=str(directories[name].path),
            config=network.config,
            result=results[name],
            step=network.step,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"])),
            curves=read_curves(directories[name].path),
            assessment=judged.networks[name],
            confusion=confusion_matrix(scored.outcomes, len(trial.classes)),
            galleries=choose(scored, trial.classes, trial.selection.name),
        )

    return Gathered(
        split=trial.split,
        classes=trial.classes,
        runs=tuple(reported(name, network) for name, network in networks.items()),
        ensemble=judged.ensemble,
        comparisons=judged.comparisons,
    )


def _validation(dataset: ConfigDict) -> str:
    """The split that a run was validated on, by a name that is no other's.

    Some data sets call another one "validation", such as that which ImageNet is tested on.
    """
    if dataset.validation_split not in ("", "none"):
        return dataset.validation_split
    if VALIDATION in splits.names(dataset.train_split) + splits.names(dataset.test_split):
        raise UserError(f"what this run was validated on has no name, for {VALIDATION} is another split: give --split")
    return VALIDATION


def _names(workdirs: Sequence[str]) -> dict[str, str]:
    """Directories by their last names, or whole where these are not enough to tell them apart."""
    last = [os.path.basename(os.path.normpath(workdir)) for workdir in workdirs]
    return dict(zip(last if len(set(last)) == len(last) else workdirs, workdirs, strict=True))
