"""Requirements of a train step: collectives, memory, FLOPs and expected scaling. Only its compiled program is read."""

import dataclasses
from typing import NamedTuple

from resnet_jax.diagnostics.hlo import parse_collectives, summarize_by_kind
from resnet_jax.diagnostics.scaling import ExpectedScaling, Ring, expected_scaling
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel, tpu_topology
from resnet_jax.terminal import table
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.memory_estimate import MemoryUsage, compile_step
from resnet_jax.training.train_step import lower_train_step


class Links(NamedTuple):
    """The assumed speeds of links; see `scaling.Ring`."""

    bytes_per_second: float
    hop_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class StepAnalysis:
    """Requirements of a compiled train step.

    Attributes:
      model, devices, slices, device_kind: what the step was compiled for; `devices` and `slices` are numbers.
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
    slices: int
    device_kind: str
    collectives: list[dict]
    flops: float
    memory: MemoryUsage | None
    capacity: int | None
    scaling: list[ExpectedScaling]


def analyze_step(
    experiment: Experiment, links: Links | None = None, links_between_slices: Links | None = None
) -> StepAnalysis:
    """Compile a train step and read its requirements from the compiled program.

    Args:
      experiment: the result of `experiment.build_abstract`.
      links: assumed speeds inside a slice; None: no scaling is predicted.
      links_between_slices: assumed speeds between slices; needed to predict the scaling of several slices.

    Raises:
      UserError: if the compiler finds that the step does not fit into memory, if the step contains a loop, if speeds
        are given for devices whose peak is unknown, or if only those inside of several slices are given.
    """
    config, mesh = experiment.config, experiment.mesh
    device = mesh.devices.flat[0]
    if experiment.model.scan_blocks or (config.optimizer.accumulate_steps > 1 and device.platform != "cpu"):
        raise UserError(
            "the step contains a loop, whose body would be counted only once. "
            "Set model.scan_blocks=False and optimizer.accumulate_steps=1."
        )
    chip = tpu_topology.chip(device)
    slices = parallel.num_slices(mesh.devices.flat)
    if links is not None and slices > 1 and links_between_slices is None:
        raise UserError(
            f"the speed of the links between the slices ({slices}) is missing. Give --slice_link_gbytes_per_s."
        )
    if links is not None and chip is None:
        raise UserError(
            f"cannot predict scaling: the peak speed of this device ({device.device_kind}) is unknown. "
            "Name a TPU with --compile_for."
        )
    compiled = compile_step(lower_train_step(experiment), config, mesh)
    # `as_text` and `cost_analysis` return None only for programs that XLA did not compile.
    collectives = parse_collectives(compiled.as_text())  # type: ignore[arg-type]
    flops = compiled.cost_analysis()["flops"]  # type: ignore[index]
    scaling = []
    if chip is not None and links is not None:
        in_slice = Ring(mesh.size // slices, *links)
        between_slices = None if links_between_slices is None else Ring(slices, *links_between_slices)
        scaling = expected_scaling(collectives, flops, chip.peak_flops, in_slice, between_slices)
    return StepAnalysis(
        model=config.model.name,
        batch_size=config.batch_size,
        devices=mesh.size,
        slices=slices,
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
    in_slices = f" in {analysis.slices} slices" if analysis.slices > 1 else ""
    sections = [
        f"{analysis.model}, {analysis.batch_size:,} images per step, {per_device:,} on each of "
        f"{analysis.devices} x {analysis.device_kind}{in_slices}"
    ]
    if analysis.collectives:
        rows = [
            (
                summary["kind"] + (" between slices" if summary["between_slices"] else ""),
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
        expectations = [
            (
                f"{expected.utilization:.0%} of peak",
                f"{expected.computation_ms:.2f} ms",
                f"{expected.communication_ms:.2f} ms",
                *([f"{expected.between_slices_ms:.2f} ms"] if analysis.slices > 1 else []),
                f"{expected.efficiency:.1%}",
                f"{expected.efficiency_overlapped:.1%}",
            )
            for expected in analysis.scaling
        ]
        part = ["between slices"] if analysis.slices > 1 else []
        header = ("expected, not measured", "computation", "communication", *part, "efficiency", "if overlapped")
        sections.append(table(expectations, header))
    return "\n\n".join(sections)
