"""What a run says at its start and at its end."""

import json
from collections.abc import Iterable, Mapping

import jax
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax.terminal import duration, scores_table, table


def introduction(config: ConfigDict, params: dict, sizes: Mapping[str, int]) -> str:
    """The resolved settings, the table of parameters, and the sizes of the splits in examples."""
    parts = [
        settings_table(config),
        parameter_table(params),
        "Examples: " + ", ".join(f"{size:,} for {split}" for split, size in sizes.items()) + ".",
    ]
    return "\n\n".join(parts)


def settings_table(config: ConfigDict) -> str:
    return table([(key, json.dumps(value)) for key, value in settings.leaves(config).items()])


def parameter_table(params: dict) -> str:
    """Arrays and parameters of each part of the network, with their totals; the blocks of a stage are one part."""
    parts: dict[str, dict] = {}
    for name in params:
        parts.setdefault(name.partition("_block")[0], {})[name] = params[name]
    rows = [
        (_title(part, parts[part]), len(jax.tree.leaves(parts[part])), _count(parts[part])) for part in _sort(parts)
    ]
    rows.append(("total", len(jax.tree.leaves(params)), _count(params)))
    return table(rows, header=("part", "arrays", "parameters"))


def conclusion(result: Mapping[str, object], path) -> str:
    """The summary of a run, finished or stopped: figures of the chosen checkpoint, time, and where it all is."""
    lines = []
    scores = {split: result[split] for split in ("validation", "test") if result[split]}
    if scores:
        lines += [scores_table(scores), ""]
    if result["checkpoint_step"] is None:
        checkpoint = "No checkpoint yet."
    else:
        chosen = "the best on validation" if result["validation"] else "the last"
        checkpoint = f"Checkpoint of step {result['checkpoint_step']:,}, {chosen}."
    lines.append(f"{checkpoint} {duration(result['seconds'])} of training. {path}")
    return "\n".join(lines)


def _count(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _title(part: str, modules: dict) -> str:
    blocks = "1 block" if len(modules) == 1 else f"{len(modules)} blocks"
    return f"{part}, {blocks}" if part.startswith("stage") else part


def _sort(parts: Iterable[str]) -> list[str]:
    """As the picture passes them."""
    order = ("stem", "stage", "final", "head")
    return sorted(parts, key=lambda part: ([part.startswith(start) for start in order].index(True), part))
