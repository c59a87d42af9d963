"""What a run says at its start and at its end."""

import json
import re
from collections.abc import Mapping

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
    """Arrays and parameters of each top-level module, with their totals."""
    names = sorted(params, key=_place)
    rows = [(name, len(jax.tree.leaves(params[name])), _count(params[name])) for name in names]
    rows.append(("total", len(jax.tree.leaves(params)), _count(params)))
    return table(rows, header=("module", "arrays", "parameters"))


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


def _place(name: str) -> tuple:
    """Sorts modules as the picture passes them: stem, stages and blocks by number, head."""
    return name == "head", not name.startswith("stem"), [int(number) for number in re.findall(r"\d+", name)]
