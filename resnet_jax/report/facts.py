"""Texts of a report: the model, the data, the settings, and caveats about the metrics."""

import json
from typing import NamedTuple

from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax.data import splits
from resnet_jax.data.dataset import VALIDATION
from resnet_jax.report.collect import ReportData, ReportedRun
from resnet_jax.selfsupervised import embeddings
from resnet_jax.terminal import METRIC_TITLES, duration


class ChangedSetting(NamedTuple):
    """A setting that differs from its default, with both values as JSON.

    `default` is None for a setting without a fixed default: if it is not set, the data or the device determines it.
    """

    name: str
    value: str
    default: str | None


def title(data: ReportData) -> str:
    """Return the title of the page, such as "resnet20 on cifar10"."""
    first = data.runs[0].config
    models = first.model.name if len(data.runs) == 1 else f"{len(data.runs)} runs"
    return f"{models} on {first.dataset.name}"


def caveats(data: ReportData) -> list[str]:
    """Return warnings without which the metrics could be misleading."""
    sentences = []
    unfinished = [run.name for run in data.runs if run.result is None]
    if unfinished:
        subject = "This run is" if len(data.runs) == 1 else f"{', '.join(unfinished)}: training is"
        sentences.append(f"{subject} not finished, so these metrics are preliminary.")
    if data.is_pretraining:
        for run in data.runs:
            curves = [run.curves.get(f"train/{name}") for name in ("embedding_std", "effective_rank")]
            last_values = [curve.values[-1] for curve in curves if curve]  # A short run has not logged any.
            if last_values and (sign := embeddings.sign_of_collapse(*last_values)):
                sentences.append(f"{run.name}: the embeddings have collapsed: {sign}.")
        return sentences
    dataset = data.runs[0].config.dataset
    own_validation = [VALIDATION, dataset.validation_split]
    if splits.is_held_out(dataset):
        own_validation.append(splits.describe_held_out(dataset))
    if data.split in own_validation and data.split != dataset.test_split:
        sentences.append(
            "The metrics are on the validation split, by which the checkpoint was chosen, so they are slightly "
            "optimistic. This report did not read the test split."
        )
    metrics = data.runs[0].metrics
    unreadable = metrics.means.unreadable if metrics else 0
    if unreadable:
        sentences.append(f"{unreadable:,} examples could not be read and are not included in the metrics.")
    return sentences


def facts(run: ReportedRun) -> list[tuple[str, str]]:
    """Return the facts about a run, each as a term and its description.

    They state what was trained, on which data, when, and on which hardware.
    """
    config = run.config
    result = run.result or {}
    provenance = result.get("provenance", {})
    entries = [
        *([("Method", config.pretrain.method)] if config.pretrain.method else []),
        *([("Clients", _describe_clients(config.federated))] if config.federated.partition else []),
        ("Model", f"{config.model.name}, {run.parameters:,} parameters, {config.model.dtype}"),
        ("Data", f"{config.dataset.name}: {_describe_splits(run)}"),
        (
            "Training",
            f"{_describe_epochs(run)}, batch size {config.batch_size:,}, {config.optimizer.name}, learning rate "
            f"{config.optimizer.learning_rate:g} ({config.schedule.name}), seed {config.seed}",
        ),
        ("Checkpoint", f"step {run.step:,}{_describe_choice(run)}"),
    ]
    if run.temperature != 1:
        entries.append(("Calibration", f"temperature {run.temperature:.4g}, fitted on the validation split"))
    if "seconds" in result:
        entries.append(("Time", duration(result["seconds"])))
    if provenance:
        noun = "process" if provenance["process_count"] == 1 else "processes"
        entries += [
            ("Date", provenance["date"].replace("T", " ").replace("+00:00", " UTC")),
            ("Commit", str(provenance["commit"] or "unknown")),
            (
                "Versions",
                f"Python {provenance['python']}, JAX {provenance['jax']}, jaxlib {provenance['jaxlib']}, "
                f"Flax {provenance['flax']}",
            ),
            (
                "Hardware",
                f"{provenance['device_count']} × {provenance['device']}, {provenance['process_count']} {noun}; "
                f"{provenance['machine']}, {provenance['cpu_count']} cores",
            ),
        ]
    entries.append(("Directory", run.workdir))
    return entries


def changed_settings(run: ReportedRun) -> list[ChangedSetting]:
    """Return the settings that differ from their defaults."""
    defaults = settings.leaves(settings.default())
    return [
        ChangedSetting(
            name, json.dumps(value), None if name in settings.RESOLVED_AT_START else json.dumps(defaults[name])
        )
        for name, value in settings.leaves(run.config).items()
        if value != defaults[name]
    ]


def differing_settings(data: ReportData) -> dict[str, list[str]]:
    """Return the settings in which the runs differ: the values of all runs as JSON, by setting."""
    leaves_by_run = [settings.leaves(run.config) for run in data.runs]
    values_by_name = {name: [json.dumps(leaves[name]) for leaves in leaves_by_run] for name in leaves_by_run[0]}
    return {name: values for name, values in values_by_name.items() if len(set(values)) > 1}


def _describe_epochs(run: ReportedRun) -> str:
    planned = run.config.num_epochs
    trained = (run.result or {}).get("epochs", planned)  # Results of older versions do not have it.
    unit = "epochs" if run.config.federated.partition is None else "rounds"
    return f"{planned:,} {unit}" if trained == planned else f"{trained:,} of {planned:,} {unit} (stopped early)"


def _describe_clients(federated: ConfigDict) -> str:
    """Return the number of clients and how the examples are divided among them."""
    if federated.partition == "dirichlet":
        return f"{federated.clients:,}, dirichlet with alpha = {federated.alpha:g}, server {federated.server}"
    return f"{federated.clients:,}, {federated.partition}, server {federated.server}"


def _describe_splits(run: ReportedRun) -> str:
    dataset = run.config.dataset
    if splits.is_held_out(dataset):
        validation = f"validated on {splits.describe_held_out(dataset)}, held out"
    elif dataset.validation_split == splits.NO_SPLIT:
        validation = "not validated"
    else:
        validation = f"validated on {dataset.validation_split}"
    test = "not tested" if dataset.test_split == splits.NO_SPLIT else f"tested on {dataset.test_split}"
    return f"trained on {dataset.train_split}, {validation}, {test}"


def _describe_choice(run: ReportedRun) -> str:
    if run.config.dataset.validation_split == splits.NO_SPLIT:
        return ", the last"
    return f", the best on validation by {METRIC_TITLES.get(run.config.checkpoint.best_metric, 'loss')}"
