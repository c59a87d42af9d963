"""Bit-by-bit comparison of two runs: their newest checkpoints, their logged metrics, and the inputs of each step."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.federated.server import make_server_optimizer
from resnet_jax.runtime import parallel
from resnet_jax.selfsupervised import pretraining_model
from resnet_jax.trained_model import abstract_variables
from resnet_jax.training.federated_experiment import with_local_batch_norms
from resnet_jax.training.freezing import Freezing
from resnet_jax.training.optimizer import make_optimizer, make_schedule
from resnet_jax.training.state import TrainState, train_state_from_variables
from resnet_jax.workdir.workdir import WorkDir

TIMINGS = ("train/images_per_second",)  # metrics that differ between equal runs
Leaves = dict[str, np.ndarray]  # the arrays to compare, by name: see `read_run` and `effective_inputs`


@dataclasses.dataclass(frozen=True)
class Difference:
    """A leaf that differs between an uninterrupted and an interrupted run.

    Attributes:
      leaf: its name.
      elements: how many elements it has.
      differing: how many of them differ in at least one bit.
      largest: the largest absolute difference of two elements; None if the leaves cannot be subtracted.
      remark: why `largest` is None; otherwise empty.
    """

    leaf: str
    elements: int
    differing: int
    largest: float | None
    remark: str = ""


def compare(expected: Leaves, actual: Leaves) -> list[Difference]:
    """Return the leaves that are not bit-identical, or that only one of the runs has, in the order of `expected`.

    Args:
      expected: the leaves of the uninterrupted run.
      actual: the leaves of the interrupted run.

    Example:
      >>> compare({"bias": np.array([1.0, 2.0])}, {"bias": np.array([1.0, 2.5])})
      [Difference(leaf='bias', elements=2, differing=1, largest=0.5, remark='')]
    """
    differences = []
    for leaf in dict.fromkeys((*expected, *actual)):
        if leaf not in actual:
            size = expected[leaf].size
            differences.append(Difference(leaf, size, size, None, "missing in the interrupted run"))
        elif leaf not in expected:
            size = actual[leaf].size
            differences.append(Difference(leaf, size, size, None, "only in the interrupted run"))
        elif (expected[leaf].shape, expected[leaf].dtype) != (actual[leaf].shape, actual[leaf].dtype):
            remark = (
                f"{expected[leaf].dtype} {list(expected[leaf].shape)}, "
                f"interrupted {actual[leaf].dtype} {list(actual[leaf].shape)}"
            )
            differing = max(expected[leaf].size, actual[leaf].size)
            differences.append(Difference(leaf, expected[leaf].size, differing, None, remark))
        elif expected[leaf].tobytes() != actual[leaf].tobytes():
            differences.append(_difference(leaf, expected[leaf], actual[leaf]))
    return differences


def read_run(workdir: str) -> tuple[Leaves, dict]:
    """Read the newest checkpoint of a run, and its logged metrics.

    Returns:
      leaves: the step; the arrays of the checkpoint, by their paths; the metrics that the checkpoint holds because they
        have not been logged yet; and every metric in `metrics.jsonl` except timings.
      provenance: the software and hardware of the run, as `runtime.provenance.describe` returns them.
    """
    directory = WorkDir(workdir)
    config, classes = directory.config(), directory.classes()
    device = parallel.replicated(parallel.make_mesh(parallel.all_devices()[:1]))
    abstract = parallel.abstract(_abstract_items(config, len(classes)), device)
    keep, best_metric = config.checkpoint.keep, config.checkpoint.best_metric
    with directory.open_checkpoints(keep, best_metric, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        assert step is not None, "the run has saved no checkpoint"
        items, metadata = checkpoints.restore(step, abstract)
    leaves = {"step": np.array(step)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(parallel.fetch(items)):
        leaves[jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    for name, values in metadata["monitor"]["since_report"].items():
        leaves[f"metrics not yet logged/{name}"] = np.array(values)
    leaves |= _read_metrics(pathlib.Path(directory.path) / "metrics.jsonl")
    return leaves, metadata["provenance"]


def effective_inputs(processes: Sequence[Sequence[Mapping[str, list]]]) -> tuple[Leaves, Leaves]:
    """Split the inputs of a run's steps into those of effective steps and those of lost steps.

    A step is lost if a later process resumed from a checkpoint before this step, and so took the step again. All other
    steps are effective: the final state of the run results from them.

    Args:
      processes: for each process of the run, in order, a description of each of its calls of the train step, as
        `resume_worker.describe_inputs` returns it.

    Returns:
      The inputs of the effective steps, and the inputs of the lost steps.
    """
    effective: dict[int, Leaves] = {}  # by the first step of a call
    lost: Leaves = {}
    for calls in processes:
        resumed_from = calls[0]["steps"][0]
        for step in [step for step in effective if step >= resumed_from]:
            lost |= effective.pop(step)
        for call in calls:
            first, last = call["steps"][0], call["steps"][-1]
            name = f"step {first}" if first == last else f"steps {first} to {last}"
            effective[first] = {f"{name}/{kind}": np.array(call[kind]) for kind in ("examples", "images")}
    return {name: leaf for inputs in effective.values() for name, leaf in inputs.items()}, lost


def _difference(leaf: str, expected: np.ndarray, actual: np.ndarray) -> Difference:
    """Compare two arrays of the same shape and dtype."""
    expected_bytes, actual_bytes = (
        np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1) for array in (expected, actual)
    )
    differing = int((expected_bytes != actual_bytes).any(axis=1).sum())
    if expected.dtype.kind == "U":
        return Difference(leaf, expected.size, differing, None, "digests")
    with np.errstate(invalid="ignore"):  # The difference of two equal infinities is NaN, which nanmax ignores.
        absolute = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    return Difference(leaf, expected.size, differing, float(np.nanmax(absolute)))


def _abstract_items(config: ConfigDict, num_classes: int) -> Mapping[str, object]:
    """Return the shapes and dtypes of the items in a run's checkpoints."""
    model = pretraining_model.model_of_run(config, num_classes)
    variables = abstract_variables(model, len(config.dataset.mean))
    is_federated = config.federated.partition is not None
    optimizer = (
        make_server_optimizer(config.federated)
        if is_federated
        else make_optimizer(config, make_schedule(config, steps_per_epoch=1), model.stage_sizes)
    )
    use_ema = config.ema_decay is not None

    def begin(variables: dict) -> TrainState:
        state = train_state_from_variables(variables, optimizer, Freezing(config.freeze), use_ema)
        return with_local_batch_norms(state, config.federated) if is_federated else state

    return jax.eval_shape(begin, variables).checkpoint_items


def _read_metrics(path: pathlib.Path) -> Leaves:
    """Read a metrics file: each metric, by step and name, and an array of the steps of all lines, in order."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    leaves = {"metrics.jsonl/steps": np.array([line["step"] for line in lines])}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", *TIMINGS):
                leaves[f"metrics.jsonl/step {line['step']}/{name}"] = np.array(value)
    return leaves
