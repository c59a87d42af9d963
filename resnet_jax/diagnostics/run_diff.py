"""Two runs compared bit by bit: what they have learned, what they recorded, and what each step was given."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.models import factory
from resnet_jax.runtime import parallel
from resnet_jax.trained_model import abstract_variables
from resnet_jax.training import state
from resnet_jax.training.freezing import Freezing
from resnet_jax.training.optimizer import make_optimizer, make_schedule
from resnet_jax.workdir.workdir import WorkDir

TIMINGS = ("train/images_per_second",)
Leaves = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A leaf that is not the same in both runs.

    Attributes:
      leaf: its name.
      elements: how many it has.
      differing: how many of them differ in a bit or more.
      largest: the largest difference of two numbers; None where there is none to tell.
      remark: in its place, why.
    """

    leaf: str
    elements: int
    differing: int
    largest: float | None
    remark: str = ""


def compare(expected: Leaves, found: Leaves) -> list[Difference]:
    """The leaves that are not bit for bit the same, or in one of the runs only, in their order."""
    differences = []
    for leaf in dict.fromkeys((*expected, *found)):
        one, other = expected.get(leaf), found.get(leaf)
        if one is None or other is None:
            there = "missing in the interrupted run" if other is None else "only in the interrupted run"
            size = (one if other is None else other).size
            differences.append(Difference(leaf, size, size, None, there))
        elif (one.shape, one.dtype) != (other.shape, other.dtype):
            remark = f"{one.dtype} {list(one.shape)}, interrupted {other.dtype} {list(other.shape)}"
            differences.append(Difference(leaf, one.size, max(one.size, other.size), None, remark))
        elif one.tobytes() != other.tobytes():
            differences.append(_difference(leaf, one, other))
    return differences


def leaves(workdir: str) -> tuple[Leaves, dict]:
    """All of a run at its newest checkpoint, and where it was made (see `provenance`).

    Its step, its arrays by their paths, the metrics that await their report there, and each figure in `metrics.jsonl`
    but timings.
    """
    directory = WorkDir(workdir)
    config, classes = directory.config(), directory.classes()
    device = parallel.replicated(parallel.make_mesh(jax.devices()[:1]))
    abstract = parallel.abstract(_abstract_parts(config, len(classes)), device)
    keep, best_metric = config.checkpoint.keep, config.checkpoint.best_metric
    with directory.open_checkpoints(keep, best_metric, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        items, host = checkpoints.restore(step, abstract)
    paths = jax.tree_util.tree_leaves_with_path(parallel.fetch(items))
    found = {"step": np.array(step)}
    found |= {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    for name, values in host["monitor"]["since_report"].items():
        found[f"metrics since the last report/{name}"] = np.array(values)
    return found | _metrics(pathlib.Path(directory.path) / "metrics.jsonl"), host["provenance"]


def batches(processes: Sequence[Sequence[Mapping[str, list]]]) -> tuple[Leaves, Leaves]:
    """What each step was given, from the notes of a run's processes in their order; see `watched_run.note`.

    Returns:
      What counts, and what was in vain: steps after the checkpoint from which a later process went on.
    """
    counting: dict[int, Leaves] = {}
    in_vain: Leaves = {}
    for calls in processes:
        for step in [step for step in counting if step >= calls[0]["steps"][0]]:
            in_vain |= counting.pop(step)
        for call in calls:
            first, last = call["steps"][0], call["steps"][-1]
            name = f"step {first}" if first == last else f"steps {first} to {last}"
            counting[first] = {f"{name}/{kind}": np.array(call[kind]) for kind in ("examples", "pictures")}
    return {name: leaf for step in counting.values() for name, leaf in step.items()}, in_vain


def _difference(leaf: str, one: np.ndarray, other: np.ndarray) -> Difference:
    rows = [np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1) for array in (one, other)]
    differing = int((rows[0] != rows[1]).any(axis=1).sum())
    if one.dtype.kind == "U":
        return Difference(leaf, one.size, differing, None, "digests")
    with np.errstate(invalid="ignore"):  # Infinities that are the same.
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return Difference(leaf, one.size, differing, float(np.nanmax(apart)))


def _abstract_parts(config: ConfigDict, num_classes: int) -> Mapping[str, object]:
    """Shapes and types of what is in a run's checkpoints."""
    model = factory.from_config(config, num_classes)
    variables = abstract_variables(model, len(config.dataset.mean))
    optimizer = make_optimizer(config, make_schedule(config, steps_per_epoch=1), model.stage_sizes)
    averages = config.ema_decay is not None

    def begin(variables: dict) -> state.TrainState:
        return state.begin(variables, optimizer, Freezing(config.freeze), averages)

    return jax.eval_shape(begin, variables).parts


def _metrics(path: pathlib.Path) -> Leaves:
    """Each figure of a metrics file by step and name, and the steps of the lines in their order."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = {"metrics.jsonl/steps": np.array([line["step"] for line in lines])}
    for line in lines:
        figures = {name: value for name, value in line.items() if name not in ("step", *TIMINGS)}
        found |= {f"metrics.jsonl/step {line['step']}/{name}": np.array(value) for name, value in figures.items()}
    return found
