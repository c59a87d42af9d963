"""Requirements of a train step: collectives, memory, FLOPs and expected scaling. Only its compiled program is read."""

import dataclasses

from resnet_jax.diagnostics.hlo import parse_collectives, summarize_by_kind
from resnet_jax.diagnostics.scaling import ExpectedScaling, expected_scaling
from resnet_jax.errors import UserError
from resnet_jax.runtime import tpu_topology
from resnet_jax.terminal import table
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.memory_estimate import MemoryUsage, compile_step
from resnet_jax.training.train_step import lower_train_step


@dataclasses.dataclass(frozen=True)
class StepAnalysis:
    """Requirements of a compiled train step.

    Attributes:
      model, devices, device_kind: what the step was compiled for; `devices` is the number of devices.
      batch_size: images per step, over all devices.
      collectives: one dict per kind, as `hlo.summarize_by_kind` returns them.
      flops: floating-point operations per step on one device, as XLA counts them (a multiply-add is two).
      memory: memory that the step needs on one device, in bytes; None if the backend does not report it.
      capacity: memory that the chip has by its specification, in bytes; None if unknown.
      scaling: the expected scaling for the assumed speeds; empty if no speeds were given.
    """

    model: str
    batch_size: int
    devices: int
    device_kind: str
    collectives: list[dict]
    flops: float
    memory: MemoryUsage | None
    capacity: int | None
    scaling: list[ExpectedScaling]


def analyze_step(
    experiment: Experiment, link_bytes_per_second: float | None = None, hop_seconds: float = 0.0
) -> StepAnalysis:
    """Compile a train step and read its requirements from the compiled program.

    Args:
      experiment: the result of `experiment.build_abstract`.
      link_bytes_per_second, hop_seconds: assumed speeds for `scaling.expected_scaling`. If `link_bytes_per_second` is
        None, no scaling is predicted.

    Raises:
      UserError: if the compiler finds that the step does not fit into memory, if the step contains a loop, or if
        `link_bytes_per_second` is given for devices whose peak speed is unknown.
    """
    config, mesh = experiment.config, experiment.mesh
    device = mesh.devices.flat[0]
    if experiment.model.scan_blocks or (config.optimizer.accumulate_steps > 1 and device.platform != "cpu"):
        raise UserError(
            "the step contains a loop, whose body would be counted only once. "
            "Set model.scan_blocks=False and optimizer.accumulate_steps=1."
        )
    chip = tpu_topology.chip(device)
    if link_bytes_per_second is not None and chip is None:
        raise UserError(
            f"cannot predict scaling: the peak speed of this device ({device.device_kind}) is unknown. "
            "Name a TPU with --compile_for."
        )
    compiled = compile_step(lower_train_step(experiment), config, mesh)
    # `as_text` and `cost_analysis` return None only for programs that XLA did not compile.
    collectives = parse_collectives(compiled.as_text())  # type: ignore[arg-type]
    flops = compiled.cost_analysis()["flops"]  # type: ignore[index]
    scaling = []
    if chip is not None and link_bytes_per_second is not None:
        scaling = expected_scaling(collectives, flops, chip.peak_flops, mesh.size, link_bytes_per_second, hop_seconds)
    return StepAnalysis(
        model=config.model.name,
        batch_size=config.batch_size,
        devices=mesh.size,
        device_kind=device.device_kind,
        collectives=summarize_by_kind(collectives),
        flops=flops,
        memory=MemoryUsage.from_compiled(compiled),
        capacity=None if chip is None else chip.memory,
        scaling=scaling,
    )


def format_analysis(analysis: StepAnalysis) -> str:
    """Format an analysis as tables for a terminal."""
    per_device = analysis.batch_size // analysis.devices
    sections = [
        f"{analysis.model}, {analysis.batch_size:,} images per step, {per_device:,} on each of "
        f"{analysis.devices} x {analysis.device_kind}"
    ]
    if analysis.collectives:
        rows = [
            (
                summary["kind"],
                summary["count"],
                summary["asynchronous"],
                summary["bytes"],
                ", ".join(f"{size:,} {dtype}" for dtype, size in summary["by_type"].items()),
            )
            for summary in analysis.collectives
        ]
        sections.append(table(rows, header=("collective", "count", "asynchronous", "bytes", "bytes by type")))
    else:
        sections.append("No collectives.")
    if analysis.memory:
        memory_rows = [*dataclasses.asdict(analysis.memory).items(), ("total", analysis.memory.total)]
        if analysis.capacity:
            memory_rows.append(("capacity of the chip", analysis.capacity))
        sections.append(table(memory_rows, header=("memory per device", "bytes")))
    sections.append(f"{analysis.flops:.3e} FLOPs per device")
    if analysis.scaling:
        rows = [
            (
                f"{expected.utilization:.0%} of peak",
                f"{expected.computation_ms:.2f} ms",
                f"{expected.communication_ms:.2f} ms",
                f"{expected.efficiency:.1%}",
                f"{expected.efficiency_overlapped:.1%}",
            )
            for expected in analysis.scaling
        ]
        header = ("expected, not measured", "computation", "communication", "efficiency", "if overlapped")
        sections.append(table(rows, header))
    return "\n\n".join(sections)
