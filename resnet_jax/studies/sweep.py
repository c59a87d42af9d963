"""Runs of one recipe with different settings, compared on validation: a grid, or a search over ranges.

The test split is not read. A study is reproducible from its directory: the runs are ordinary run directories, and
`study.json` lists their settings and outcomes. So the same command resumes a killed sweep.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ml_collections import ConfigDict

from resnet_jax.data import splits
from resnet_jax.errors import UserError, needs_extra
from resnet_jax.studies import search_space
from resnet_jax.studies.processes import train_all
from resnet_jax.studies.search_space import Choices, SearchSpace
from resnet_jax.studies.study import Outcome, Recipe, Study, SubRun
from resnet_jax.terminal import METRIC_TITLES, Reporter, duration, metric_titles, primary_metric, table
from resnet_jax.training.metrics_writer import Curve, read_curves


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run of a sweep.

    Attributes:
      name: the name of its directory.
      changes: its settings, by name.
      outcome: how the run ended.
      validation: its validation metrics; None unless it is finished.
      seconds: the time of training; None unless it is finished.
    """

    name: str
    changes: Mapping[str, object]
    outcome: Outcome
    validation: Mapping[str, float] | None
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Results:
    """The runs of a sweep.

    Attributes:
      study: the directory of the study.
      space: the settings that were varied.
      metric: the validation metric by which the runs are sorted, such as "top1" or "loss".
      trials: the runs, the best first, and equally good ones in the order of their start; those that are not finished
        come last.
    """

    study: str
    space: SearchSpace
    metric: str
    trials: tuple[Trial, ...]

    @property
    def is_complete(self) -> bool:
        """True if no run failed or was stopped. A diverged run counts as complete."""
        return not any(trial.outcome in (Outcome.FAILED, Outcome.STOPPED) for trial in self.trials)


def sweep(path: str, recipe: Recipe, space: SearchSpace, num_trials: int, jobs: int, reporter: Reporter) -> Results:
    """Train the runs of a sweep, or resume it, and write `summary.json`.

    Args:
      path: the directory of the study.
      recipe: the recipe. Its test split is not read.
      space: the settings to vary.
      num_trials: how many runs a search over ranges trains; not used for a grid.
      jobs, reporter: see `train_all`.

    Raises:
      UserError: if Optuna is needed and not installed; or as `Study` and `train_all` do.
      KeyboardInterrupt, Preempted: as `train_all` does.
    """
    recipe = recipe.changed({"dataset.test_split": splits.NO_SPLIT})
    strategy: _Strategy
    if search_space.is_grid(space):
        study = Study(path, "grid", recipe)
        strategy = _Grid(space, study)
    else:
        study = Study(path, "search", recipe, {"space": {name: str(values) for name, values in space.items()}})
        strategy = _Search(recipe.config, space, study, num_trials)
    trials = {}
    for run, outcome in train_all(strategy.runs(), jobs, reporter, strategy.prune):
        if outcome == Outcome.FAILED and run.has_diverged():
            outcome = Outcome.DIVERGED
        if outcome == Outcome.FINISHED and run.result()["validation"] is None:
            raise UserError(
                f"{run.name} has no validation metrics, by which a sweep compares runs. Choose a dataset with one "
                "label per image."
            )
        outcome = strategy.record(run, outcome)
        study.record(run.name, outcome)
        trials[run.name] = _trial(run, study.changes[run.name], outcome)
    metric = recipe.config.checkpoint.best_metric
    in_order = [trials[name] for name in study.changes if name in trials]  # With several jobs, runs end in any order.
    ranked = tuple(sorted(in_order, key=lambda trial: _rank(trial, metric)))
    results = Results(str(study.path), space, metric, ranked)
    study.write("summary.json", json.dumps(as_json(results), indent=2) + "\n")
    return results


def _trial(run: SubRun, changes: Mapping[str, object], outcome: Outcome) -> Trial:
    if outcome != Outcome.FINISHED:
        return Trial(run.name, changes, outcome, None, None)
    result = run.result()
    return Trial(run.name, changes, outcome, result["validation"], result["seconds"])


def _rank(trial: Trial, metric: str) -> tuple:
    """Return a key that sorts finished trials by their validation metric, and all others after them."""
    if trial.validation is None:
        return (1,)
    return (0, trial.validation[metric] if metric == "loss" else -trial.validation[metric])


class _Strategy(Protocol):
    """Chooses the runs of a sweep."""

    def runs(self) -> Iterator[SubRun]: ...

    def record(self, run: SubRun, outcome: Outcome) -> Outcome: ...

    def prune(self, run: SubRun) -> bool: ...


class _Grid:
    """All combinations of the values."""

    def __init__(self, space: SearchSpace, study: Study):
        self._space, self._study = space, study

    def runs(self) -> Iterator[SubRun]:
        """Iterate over the runs."""
        for changes in search_space.grid(self._space):
            yield self._study.add(search_space.run_name(changes), changes)

    def record(self, run: SubRun, outcome: Outcome) -> Outcome:
        """Return the outcome: the combinations do not depend on outcomes."""
        return outcome

    def prune(self, run: SubRun) -> bool:
        """Return False: all combinations are trained to their end."""
        return False


class _Search:
    """Values from ranges, chosen by Optuna from the outcomes so far.

    The tree-structured Parzen estimator (Bergstra et al. 2011) chooses the values. After each evaluation, a run is
    pruned if its best validation metric so far is worse than the median that the earlier runs had after as many
    evaluations. Optuna does so only once five runs have finished.

    Each choice has a random seed of its own, and each evaluation is judged in order. So with one job, a resumed search
    makes the same choices as an uninterrupted one.
    """

    def __init__(self, config: ConfigDict, space: SearchSpace, study: Study, num_trials: int):
        with needs_extra("a search over ranges", "optuna", "sweep"):
            import optuna
        self._optuna: Any = optuna
        self._space = space
        self._study = study
        self._num_trials = num_trials
        self._seed = config.seed
        self._metric = config.checkpoint.best_metric
        self._distributions = {name: self._distribution(values) for name, values in space.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = optuna.study.StudyDirection
        direction = directions.MINIMIZE if self._metric == "loss" else directions.MAXIMIZE
        self._search = optuna.create_study(direction=direction, pruner=optuna.pruners.MedianPruner())
        self._trials: dict[str, Any] = {}  # by the name of the run
        self._num_judged: dict[str, int] = {}  # how many evaluations have been judged, by the name of the run
        self._to_prune: set[str] = set()  # the names of the runs that were judged to be pruned

    def _distribution(self, values):
        distributions = self._optuna.distributions
        if isinstance(values, Choices):  # Optuna takes no tuples, so it chooses the position of the value.
            return distributions.CategoricalDistribution(range(len(values.values)))
        if isinstance(values.low, int):
            return distributions.IntDistribution(values.low, values.high, log=values.log)
        return distributions.FloatDistribution(values.low, values.high, log=values.log)

    def runs(self) -> Iterator[SubRun]:
        """Iterate over the runs of an earlier start, and then over new ones."""
        for name, changes in list(self._study.changes.items()):
            self._search.enqueue_trial({setting: self._encode(setting, value) for setting, value in changes.items()})
            yield self._add(name)
        while len(self._trials) < self._num_trials:
            yield self._add(f"trial{len(self._trials) + 1}")

    def _add(self, name: str) -> SubRun:
        """Let Optuna choose values, unless some are enqueued, and return the run with these values."""
        self._search.sampler = self._optuna.samplers.TPESampler(seed=self._seed + len(self._trials))
        trial = self._search.ask(self._distributions)
        self._trials[name] = trial
        self._num_judged[name] = 0
        return self._study.add(name, {setting: self._decode(setting, trial.params[setting]) for setting in self._space})

    def _encode(self, setting: str, value: object) -> object:
        """Return the value of a setting as Optuna knows it."""
        values = self._space[setting]
        return values.values.index(value) if isinstance(values, Choices) else value

    def _decode(self, setting: str, value: Any) -> object:
        values = self._space[setting]
        return values.values[value] if isinstance(values, Choices) else value

    def record(self, run: SubRun, outcome: Outcome) -> Outcome:
        """Report to Optuna how a run has ended, unless it was stopped with the study and will be resumed.

        Returns:
          The outcome. A run that should have been pruned, and finished before it could be stopped, counts as pruned.
          One that an earlier start has recorded as finished stays so: with several jobs, it is now judged in another
          order.
        """
        states = self._optuna.trial.TrialState
        trial = self._trials[run.name]
        was_finished = self._study.outcomes.get(run.name) == Outcome.FINISHED
        if self.prune(run) and outcome == Outcome.FINISHED and not was_finished:
            outcome = Outcome.PRUNED
        if outcome == Outcome.FINISHED:
            self._search.tell(trial, run.result()["validation"][self._metric])
        elif outcome == Outcome.PRUNED:
            self._search.tell(trial, state=states.PRUNED)
        elif outcome in (Outcome.FAILED, Outcome.DIVERGED):
            self._search.tell(trial, state=states.FAIL)
        return outcome

    def prune(self, run: SubRun) -> bool:
        """Judge the evaluations of a run that are new, in order, and return whether the run is to be pruned."""
        curve = read_curves(run.directory.path).get(f"validation/{self._metric}", Curve([], []))
        trial = self._trials[run.name]
        while run.name not in self._to_prune and self._num_judged[run.name] < len(curve.values):
            number = self._num_judged[run.name]
            trial.report(curve.values[number], number)
            self._num_judged[run.name] += 1
            if trial.should_prune():
                self._to_prune.add(run.name)
        return run.name in self._to_prune


# --- The summary ------------------------------------------------------------------------------------------------------


def describe(results: Results) -> str:
    """Return sentences that say what was searched and how the best run was chosen."""
    outcomes = [trial.outcome for trial in results.trials]
    searched = "; ".join(f"{name}: {values}" for name, values in results.space.items())
    kind = "all combinations" if search_space.is_grid(results.space) else "a search by TPE with median pruning"
    others = ", ".join(
        f"{outcomes.count(outcome)} {outcome}"
        for outcome in (Outcome.PRUNED, Outcome.DIVERGED, Outcome.FAILED, Outcome.STOPPED)
        if outcome in outcomes
    )
    title = METRIC_TITLES.get(results.metric, results.metric)
    runs = f"{len(outcomes)} {'run' if len(outcomes) == 1 else 'runs'}"
    return (
        f"Searched {searched} ({kind}; {runs}{f', {others}' if others else ''}). The runs are sorted by validation "
        f"{title}. The best run was chosen by this metric, so its value is optimistic."
    )


def format_results(results: Results) -> str:
    """Format a table of the runs, and what was searched."""
    names = [] if search_space.is_grid(results.space) else list(results.space)  # In a grid, the name says them.
    # The loss has a column of its own. The first of the other metrics is the most important one.
    first: Mapping[str, float | None] = results.trials[0].validation or {"top1": None, "loss": None}
    titles, with_loss = metric_titles(first), "loss" in first  # Pre-training has no validation loss.
    metric = results.metric if results.metric in titles else primary_metric(first)[0]
    title = titles[metric]
    rows = []
    for trial in results.trials:
        if trial.validation is None or trial.seconds is None:
            scores = [str(trial.outcome), *(["-"] if with_loss else []), "-"]
        else:
            loss = [f"{trial.validation['loss']:.4f}"] if with_loss else []
            scores = [f"{trial.validation[metric]:.2%}", *loss, duration(trial.seconds)]
        rows.append((trial.name, *(_short(trial.changes[name]) for name in names), *scores))
    header = ("run", *names, f"validation {title}", *(["loss"] if with_loss else []), "time")
    text = [table(rows, header=header), describe(results)]
    if not results.is_complete:
        text.append("Not all runs are finished. Run the same command again to resume.")
    return "\n\n".join(text)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_json(results: Results) -> dict[str, object]:
    """Return the results as JSON values, the best run first."""
    return {
        "study": results.study,
        "searched": describe(results),
        "runs": [dataclasses.asdict(trial) for trial in results.trials],
    }


def best_recipe(recipe: Recipe, results: Results) -> Recipe | None:
    """Return the recipe with the settings of the best run; None if no run is finished."""
    best = results.trials[0]
    return recipe.changed(best.changes) if best.outcome == Outcome.FINISHED else None
