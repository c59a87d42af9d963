"""What a train step takes, from its compiled program alone: collectives, memory, FLOPs, and the scaling to expect."""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

from resnet_jax.diagnostics import scaling
from resnet_jax.diagnostics.scaling import Expectation
from resnet_jax.errors import UserError
from resnet_jax.runtime import tpu_topology
from resnet_jax.terminal import table
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.memory_estimate import Usage, compile_step

# --- What the devices tell one another in a compiled program, read from its text.
#
# The text is XLA's own language, HLO, after all of its passes: `jax.stages.Compiled.as_text()`.


# An instruction: a name, "=", the shape of its result, or a tuple of such, and what it does. Asynchronous ones begin
# with -start and end with -done, which is not counted again.
INSTRUCTION = re.compile(
    r"^ *(?:ROOT )?%?[\w.-]+ = (?P<result>\([^\"\n]*?\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-broadcast|"
    r"collective-permute)(?P<start>-start)?\(",
    re.MULTILINE,
)
ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<shape>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: as HLO calls it, such as "all-reduce".
      arrays: its results on one device, as (dtype, shape), such as ("f32", (3, 3, 64, 64)).
      asynchronous: whether the device may compute while it goes on.
    """

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    asynchronous: bool = False

    @property
    def bytes(self) -> int:
        """Of its results on one device."""
        return sum(_bytes(*array) for array in self.arrays)


def collectives(hlo: str) -> list[Collective]:
    """All collectives of a compiled program, each once, in the order of its text.

    What stands in a loop stands there once, and counts once.
    """
    return [_read(found) for found in INSTRUCTION.finditer(hlo)]


def by_kind(found: Sequence[Collective]) -> list[dict]:
    """Of each kind the `count`, how many of them are `asynchronous`, the `bytes`, and these `by_type` of the arrays."""
    kinds = sorted({each.kind for each in found})
    return [{"kind": kind, **_sums([each for each in found if each.kind == kind])} for kind in kinds]


def _sums(found: Sequence[Collective]) -> dict:
    by_type = collections.Counter()
    for each in found:
        for dtype, shape in each.arrays:
            by_type[dtype] += _bytes(dtype, shape)
    return {
        "count": len(found),
        "asynchronous": sum(each.asynchronous for each in found),
        "bytes": by_type.total(),
        "by_type": dict(sorted(by_type.items())),
    }


def _read(found: re.Match) -> Collective:
    result = found["result"]
    if found["start"] and found["kind"] in ("all-gather", "collective-permute"):
        # The result of a start is a tuple: what goes in, what comes out, and sometimes room for flags.
        result = _parts(result)[1]
    arrays = tuple((array["dtype"], _numbers(array["shape"])) for array in ARRAY.finditer(result))
    return Collective(found["kind"], arrays, asynchronous=bool(found["start"]))


def _parts(result: str) -> list[str]:
    """The members of a tuple, which may be tuples themselves."""
    parts, depth = [""], 0
    for character in result[1:-1]:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _numbers(text: str) -> tuple[int, ...]:
    """The dimensions of an array, as HLO writes them: "3,3,64,64", or nothing for a scalar."""
    return tuple(int(number) for number in text.split(",") if number)


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Of an array of "f32", "bf16", "s8", "u4", "f8e4m3fn", "c64" or, without a number, "pred"."""
    number = re.search(r"\d+", dtype)
    bits = int(number[0]) if number else 8
    return -(-bits * math.prod(shape) // 8)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What one train step takes.

    Attributes:
      model, devices, device_kind: what it was compiled for.
      batch_size: of all devices together.
      collectives: of each kind `kind`, `count`, `asynchronous`, `bytes` and `by_type`, as `collectives.by_kind` says.
      flops: of a device, as XLA counts them: a multiply-add is two.
      memory: of a device, in bytes; None where the backend does not tell.
      capacity: the memory that the chip is specified with, in bytes; None where that is not known.
      scaling: what to expect, for the speeds that were assumed; empty where none were.
    """

    model: str
    batch_size: int
    devices: int
    device_kind: str
    collectives: list[dict]
    flops: float
    memory: Usage | None
    capacity: int | None
    scaling: list[Expectation]


def analyze(experiment: Experiment, link: float | None = None, hop: float = 0.0) -> Analysis:
    """Compiles a step of `experiment` and reads what it takes.

    Args:
      setup: the parts of a run, as `experiment.prepare_described` makes them.
      link, hop: speeds for `scaling.expect`; no link, no expectation.

    Raises:
      UserError: where the compiler finds that the step does not fit, for a link between devices of unknown speed, and
        for a step with a loop in it.
    """
    config, mesh = experiment.config, experiment.mesh
    device = mesh.devices.flat[0]
    if experiment.model.scan_blocks or (config.optimizer.accumulate_steps > 1 and device.platform != "cpu"):
        raise UserError(
            "a compiled loop holds what it repeats only once, so that its collectives and FLOPs would be counted once: "
            "set model.scan_blocks=False and optimizer.accumulate_steps=1"
        )
    chip = tpu_topology.chip(device)
    if link is not None and chip is None:
        raise UserError(f"what scaling to expect of {device.device_kind} is not known: name a TPU with --compile_for")
    compiled = compile_step(experiment.lower(1), config, mesh)
    found, flops = collectives(compiled.as_text()), compiled.cost_analysis()["flops"]
    return Analysis(
        model=config.model.name,
        batch_size=config.batch_size,
        devices=mesh.size,
        device_kind=device.device_kind,
        collectives=by_kind(found),
        flops=flops,
        memory=Usage.of(compiled),
        capacity=chip and chip.memory,
        scaling=[] if link is None else scaling.expect(found, flops, chip.peak_flops, mesh.size, link, hop),
    )


def report(of: Analysis) -> str:
    """Tables for people."""
    each = of.batch_size // of.devices
    parts = [f"{of.model}, {of.batch_size:,} examples a step, {each:,} on each of {of.devices} x {of.device_kind}"]
    rows = [
        (kind["kind"], kind["count"], kind["asynchronous"], kind["bytes"], _by_type(kind["by_type"]))
        for kind in of.collectives
    ]
    header = ("collectives", "count", "asynchronous", "bytes", "of these")
    parts.append(table(rows, header) if rows else "No collectives.")
    if of.memory:
        rows = [*dataclasses.asdict(of.memory).items(), ("together", of.memory.total)]
        rows += [("the chip has", of.capacity)] if of.capacity else []
        parts.append(table(rows, header=("memory of a device", "bytes")))
    parts.append(f"{of.flops:.3e} FLOPs on a device")
    if of.scaling:
        rows = [
            (
                f"{at.utilization:.0%} of the peak",
                f"{at.computation_ms:.2f} ms",
                f"{at.communication_ms:.2f} ms",
                f"{at.efficiency:.1%}",
                f"{at.efficiency_overlapped:.1%}",
            )
            for at in of.scaling
        ]
        header = ("expected, not measured", "computation", "communication", "efficiency", "if overlapped")
        parts.append(table(rows, header))
    return "\n\n".join(parts)


def _by_type(sizes: dict[str, int]) -> str:
    return ", ".join(f"{size:,} {dtype}" for dtype, size in sizes.items())
