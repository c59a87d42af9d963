"""Runs of one recipe with several seeds, or with several folds for validation, and their mean and spread."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from resnet_jax.data import splits
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import score_own_validation
from resnet_jax.evaluation.model_comparison import Evaluator, McNemar, mcnemar
from resnet_jax.studies import out_of_fold
from resnet_jax.studies.processes import train_all
from resnet_jax.studies.statistics import Spread, spread
from resnet_jax.studies.study import Outcome, Recipe, Study, SubRun
from resnet_jax.terminal import Reporter, duration, metric_titles, primary_metric, table
from resnet_jax.trained_model import load_run

# --- The runs ---------------------------------------------------------------------------------------------------------


def open_seeds(path: str, recipe: Recipe, seeds: Iterable[int]) -> tuple[Study, list[SubRun]]:
    """Open a study with one run per seed: `seed0`, `seed1`, ..."""
    study = Study(path, "seeds", recipe)
    return study, [study.add(f"seed{seed}", {"seed": seed}) for seed in seeds]


def open_folds(path: str, recipe: Recipe, folds: int) -> tuple[Study, list[SubRun]]:
    """Open a study with one run per fold: `fold1`, `fold2`, ..., each validated on the fold it was not trained on.

    A run evaluates only its last checkpoint, so that the fold does not choose the checkpoint that it scores. The test
    split is not read.

    Raises:
      UserError: if the recipe has a validation split of its own.
    """
    validation_split = recipe.config.dataset.validation_split
    if validation_split:
        raise UserError(
            f"--folds makes validation splits of its own, but dataset.validation_split is {validation_split!r}. Leave "
            "it empty, or choose another recipe."
        )
    recipe = recipe.changed({"dataset.test_split": splits.NO_SPLIT, "evaluate_every_epochs": recipe.config.num_epochs})
    study = Study(path, "folds", recipe, {"folds": folds})
    numbers = range(1, folds + 1)
    return study, [
        study.add(f"fold{number}", {"dataset.validation_split": f"fold:{number}/{folds}"}) for number in numbers
    ]


# --- The summary ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Summary:
    """The results of several runs of one recipe, and their spread.

    Attributes:
      results: the content of `result.json`, by the name of the run.
      spreads: the spread of each metric over the runs, by split ("validation", "test", or "test, mirror_translate" with
        test-time augmentation) and by metric, such as "top1" and "loss".
      unfinished: the names of the runs that failed or were stopped.
      are_folds: whether the runs were validated on different folds.
      split: the split on which the best and the worst run are compared, by top-1. None if they are not compared: there
        is only one run, the runs are scored on different folds, or images have any number of labels.
      best, worst: their names, or None.
      comparison: McNemar's test of the best and the worst run, or None.
    """

    results: Mapping[str, dict]
    spreads: Mapping[str, Mapping[str, Spread]]
    unfinished: tuple[str, ...]
    are_folds: bool = False
    split: str | None = None
    best: str | None = None
    worst: str | None = None
    comparison: McNemar | None = None

    @property
    def is_multi_label(self) -> bool:
        """True if the runs predict any number of labels per image."""
        return any("map" in metrics for metrics in self.spreads.values())


def train_and_summarize(study: Study, runs: Sequence[SubRun], jobs: int, reporter: Reporter) -> Summary:
    """Train the runs or resume them, and write `summary.json`, and for folds `out_of_fold.csv`.

    Args:
      study, runs: what `open_seeds` or `open_folds` returns.
      jobs, reporter: see `train_all`.

    Raises:
      UserError: if no run has finished; or as `train_all` does.
      KeyboardInterrupt, Preempted: as `train_all` does.
    """
    for run, outcome in train_all(runs, jobs, reporter):
        study.record(run.name, outcome)
    finished = [run for run in runs if study.outcomes[run.name] == Outcome.FINISHED]
    if not finished:
        raise UserError("no run has finished. The messages above say why.")
    unfinished = [run.name for run in runs if run not in finished]
    summary = summarize(finished, unfinished, reporter, are_folds=study.kind == "folds")
    study.write("summary.json", json.dumps(as_json(summary), indent=2) + "\n")
    has_classes = runs[0].recipe.config.pretrain.method is None
    if study.kind == "folds" and not summary.unfinished and not summary.is_multi_label and has_classes:
        predictions = out_of_fold.predict_held_out([run.workdir for run in finished], reporter)
        study.write(out_of_fold.FILE, out_of_fold.to_csv(predictions))
    return summary


def summarize(
    finished: Sequence[SubRun], unfinished: Sequence[str], reporter: Reporter, are_folds: bool = False
) -> Summary:
    """Summarize finished runs. The best and the worst of them are scored once more, to compare them.

    Args:
      finished: the finished runs, at least one.
      unfinished: the names of the other runs.
      reporter: shows the progress of scoring.
      are_folds: whether the runs were validated on different folds.
    """
    results = {run.name: run.result() for run in finished}
    scores = {name: dict(_scores(result)) for name, result in results.items()}
    spreads = {
        split: {
            metric: spread([scores[name][split][metric] for name in scores])
            for metric in ("loss", *metric_titles(first_scores))
            if metric in first_scores  # Pre-training has no validation loss.
        }
        for split, first_scores in next(iter(scores.values())).items()
    }
    summary = Summary(results, spreads, tuple(unfinished), are_folds)
    split = next((split for split in ("test", "validation") if split in spreads), None)
    if split is None or len(finished) < 2 or are_folds:
        return summary
    # McNemar's test is about examples that a model classifies correctly or not.
    if primary_metric(spreads[split])[0] != "top1":
        return summary
    top1 = {name: scores[name][split]["top1"] for name in scores}
    best, worst = max(top1, key=top1.__getitem__), min(reversed(top1), key=top1.__getitem__)
    models = {run.name: load_run(run.workdir) for run in finished if run.name in (best, worst)}
    if split == "test":
        evaluator = Evaluator.open(models, reporter)
        scored = [evaluator.score(name).metrics for name in (best, worst)]
    else:  # A dataset may have a split called "validation" that is not the run's own, as ImageNet does.
        scored = [score_own_validation(models[name], reporter)[0] for name in (best, worst)]
    comparison = mcnemar(*scored)
    return dataclasses.replace(summary, split=split, best=best, worst=worst, comparison=comparison)


def _scores(result: Mapping) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the splits on which a run was scored, and its metrics."""
    for split in ("validation", "test"):
        if result[split]:
            yield split, result[split]
    for tta, metrics in (result.get("test_tta") or {}).items():
        yield f"test, {tta}", metrics


def as_json(summary: Summary) -> dict[str, object]:
    """Return the summary as JSON values: accuracies are fractions under "top1"."""
    comparison = None
    if summary.comparison is not None:
        comparison = {"split": summary.split, "best": summary.best, "worst": summary.worst, **vars(summary.comparison)}
    return {
        "runs": [
            {"name": name, **dict(_scores(result)), "seconds": result["seconds"]}
            for name, result in summary.results.items()
        ],
        "unfinished": list(summary.unfinished),
        "means": {
            split: {metric: dataclasses.asdict(values) for metric, values in by_metric.items()}
            for split, by_metric in summary.spreads.items()
        },
        "comparison": comparison,
    }


def format_summary(summary: Summary) -> str:
    """Format the runs, their means, and the comparison of the best and the worst run."""
    splits = list(summary.spreads)
    if not splits:
        return "The runs have neither validation nor test metrics."
    # The first metric is the most important one.
    first = next(iter(summary.spreads.values()))
    metric, title = primary_metric(first)
    rows = [
        (name, *(f"{dict(_scores(result))[split][metric]:.2%}" for split in splits), duration(result["seconds"]))
        for name, result in summary.results.items()
    ]
    text = [table(rows, header=("run", *(f"{split} {title}" for split in splits), "time"))]
    columns = {metric: title, **({"loss": "loss"} if "loss" in first else {})}
    mean_rows = [
        (split, *(text for name in columns for text in _format_spread(values[name], percent=name != "loss")))
        for split, values in summary.spreads.items()
    ]
    count = len(summary.results)
    header = ("", *(text for title in columns.values() for text in (f"{title} ± std", "mean (95 %)")))
    text.append(f"Mean of {count} {'run' if count == 1 else 'runs'}:\n\n{table(mean_rows, header=header)}")
    if summary.comparison is not None:
        test = summary.comparison
        text.append(
            f"Best and worst on {summary.split}: {summary.best} and {summary.worst}. Only the best classifies "
            f"{test.only_first:,} examples correctly, only the worst {test.only_second:,}. McNemar's test: p = "
            f"{test.p_value:.2g}, which is too small if there are more than two runs, because the pair was chosen by "
            "these accuracies."
        )
    if summary.are_folds:
        text.append(
            "The intervals are too narrow, because the folds share most of their training examples (Bengio & "
            "Grandvalet 2004)."
        )
    if summary.unfinished:
        text.append(f"Not finished: {', '.join(summary.unfinished)}. Run the same command again to resume.")
    return "\n\n".join(text)


def _format_spread(values: Spread, percent: bool) -> tuple[str, str]:
    scale, digits = (100, 2) if percent else (1, 4)
    unit = " %" if percent else ""
    mean = f"{scale * values.mean:.{digits}f}"
    if values.std is None or values.low is None or values.high is None:
        return f"{mean}{unit}", "-"
    interval = f"{scale * values.low:.{digits}f} .. {scale * values.high:.{digits}f}"
    return f"{mean} ± {scale * values.std:.{digits}f}{unit}", interval
