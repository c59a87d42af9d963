"""What a train step takes, from its compiled program alone: collectives, memory, FLOPs, and the scaling to expect."""

import dataclasses

from resnet_jax import topology
from resnet_jax.errors import UserError
from resnet_jax.terminal import table
from resnet_jax.training import scaling
from resnet_jax.training.collectives import by_kind, collectives
from resnet_jax.training.memory import Usage, compile_step
from resnet_jax.training.parts import Setup
from resnet_jax.training.scaling import Expectation


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


def analyze(setup: Setup, link: float | None = None, hop: float = 0.0) -> Analysis:
    """Compiles a step of `setup` and reads what it takes.

    Args:
      setup: the parts of a run, as `setup.prepare_described` makes them.
      link, hop: speeds for `scaling.expect`; no link, no expectation.

    Raises:
      UserError: where the compiler finds that the step does not fit, for a link between devices of unknown speed, and
        for a step with a loop in it.
    """
    config, mesh = setup.config, setup.mesh
    device = mesh.devices.flat[0]
    if setup.model.scan_blocks or (config.optimizer.accumulate_steps > 1 and device.platform != "cpu"):
        raise UserError(
            "a compiled loop holds what it repeats only once, so that its collectives and FLOPs would be counted once: "
            "set model.scan_blocks=False and optimizer.accumulate_steps=1"
        )
    chip = topology.chip(device)
    if link is not None and chip is None:
        raise UserError(f"what scaling to expect of {device.device_kind} is not known: name a TPU with --compile_for")
    compiled = compile_step(setup.lower(1), config, mesh)
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
