"""What a report says of runs in words: what was trained, on what, with what settings, and what to beware of."""

import json
from typing import NamedTuple

from resnet_jax import config as settings
from resnet_jax.data.dataset import VALIDATION
from resnet_jax.report.collect import Gathered, ReportedRun
from resnet_jax.terminal import duration


class Setting(NamedTuple):
    """A setting that is not the default, both as JSON; the default is None where the data or the device decides."""

    name: str
    value: str
    default: str | None


def title(gathered: Gathered) -> str:
    """What the page is about, in a few words."""
    first = gathered.runs[0].config
    of = first.model.name if len(gathered.runs) == 1 else f"{len(gathered.runs)} runs"
    return f"{of} on {first.dataset.name}"


def notes(gathered: Gathered) -> list[str]:
    """Sentences without which the figures could mislead."""
    said = []
    unfinished = [run.name for run in gathered.runs if run.result is None]
    if unfinished:
        which = "This run is" if len(gathered.runs) == 1 else f"{', '.join(unfinished)}: the training is"
        said.append(f"{which} not finished, so these are figures of the way, not of its end.")
    dataset = gathered.runs[0].config.dataset
    if gathered.split in (VALIDATION, dataset.validation_split) and gathered.split != dataset.test_split:
        said.append(
            "The examples are those of the validation split, by which the checkpoint was chosen: they flatter it a "
            "little. The test split was not read."
        )
    unreadable = gathered.runs[0].assessment.scores.unreadable
    if unreadable:
        said.append(f"{unreadable:,} more examples could not be read, and are left out.")
    return said


def facts(run: ReportedRun) -> list[tuple[str, str]]:
    """What was trained, on what and with what: terms, and what is to be said of each."""
    config, result = run.config, run.result or {}
    made = result.get("provenance", {})
    told = [
        ("Network", f"{config.model.name}, {run.parameters:,} parameters, {config.model.dtype}"),
        ("Data", f"{config.dataset.name}: {_splits(run)}"),
        (
            "Training",
            f"{config.num_epochs:,} epochs in batches of {config.batch_size:,}, {config.optimizer.name}, learning rate "
            f"{config.optimizer.learning_rate:g} ({config.schedule.name}), seed {config.seed}",
        ),
        ("Checkpoint", f"step {run.step:,}{_chosen(run)}"),
    ]
    if "seconds" in result:
        told.append(("Time", duration(result["seconds"])))
    if made:
        devices = f"{made['device_count']} × {made['device']}, {made['process_count']} process"
        told += [
            ("Date", made["date"].replace("T", " ").replace("+00:00", " UTC")),
            ("Commit", str(made["commit"] or "not known")),
            ("Versions", f"Python {made['python']}, JAX {made['jax']}, jaxlib {made['jaxlib']}, Flax {made['flax']}"),
            (
                "Hardware",
                f"{devices}{'' if made['process_count'] == 1 else 'es'}; {made['machine']}, {made['cpu_count']} cores",
            ),
        ]
    told.append(("Directory", run.workdir))
    return told


def changed(run: ReportedRun) -> list[Setting]:
    """The settings that differ from their defaults."""
    usual = settings.leaves(settings.default())
    return [
        Setting(name, json.dumps(value), None if name in settings.RESOLVED_AT_START else json.dumps(usual[name]))
        for name, value in settings.leaves(run.config).items()
        if value != usual[name]
    ]


def differing(gathered: Gathered) -> dict[str, list[str]]:
    """The settings in which runs differ: for each its values, as JSON, in the order of the runs."""
    of_runs = [settings.leaves(run.config) for run in gathered.runs]
    values = {name: [json.dumps(leaves[name]) for leaves in of_runs] for name in of_runs[0]}
    return {name: of_each for name, of_each in values.items() if len(set(of_each)) > 1}


def _splits(run: ReportedRun) -> str:
    dataset = run.config.dataset
    validation = {"": "validated on a held-out tenth of each class", "none": "not validated"}
    tested = "not tested" if dataset.test_split == "none" else f"tested on {dataset.test_split}"
    chosen_on = validation.get(dataset.validation_split, f"validated on {dataset.validation_split}")
    return f"trained on {dataset.train_split}, {chosen_on}, {tested}"


def _chosen(run: ReportedRun) -> str:
    if run.config.dataset.validation_split == "none":
        return ", the last"
    return f", the best on validation by {run.config.checkpoint.best_metric.replace('top1', 'top-1')}"
