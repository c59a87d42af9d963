"""Measure how fast a recipe trains on this machine and what limits it, or analyze its compiled train step.

The measurement trains for about a minute, or longer if steps are slow, and leaves nothing behind. With `--collectives`,
the command analyzes the compiled train step instead: the communication between devices, memory and FLOPs. With
`--compile_for`, the step is compiled for TPUs that need not be present. The analysis reads images only to learn their
size.

With `--format=json`, the keys are the fields of `diagnostics.throughput.Throughput` or of
`diagnostics.step_analysis.StepAnalysis`.
"""

import dataclasses
import json
import math

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

CONFIG = shared_flags.define_config("The recipe, such as configs/imagenet.py.")
FORMAT = shared_flags.define_format()
COLLECTIVES = flags.DEFINE_bool("collectives", False, "Analyze the compiled step: communication, memory and FLOPs.")
COMPILE_FOR = flags.DEFINE_string(
    "compile_for", None, "With --collectives, a TPU slice that need not be present, such as v5e:2x4 or v5p:2x2x1."
)
LINK = flags.DEFINE_float(
    "link_gbytes_per_s",
    None,
    "With --collectives, predict scaling from this bandwidth: the total of GB/s that a chip sends to its two "
    "neighbors in a ring.",
    lower_bound=1e-3,
)
HOP = flags.DEFINE_float(
    "hop_us",
    1.0,
    "With --link_gbytes_per_s, latency in microseconds of the smallest message to a neighbor in the ring.",
    lower_bound=0.0,
)
SLICES = flags.DEFINE_integer("slices", 1, "With --compile_for, how many such slices.", lower_bound=1)
SLICE_LINK = flags.DEFINE_float(
    "slice_link_gbytes_per_s",
    None,
    "With --link_gbytes_per_s and --slices, the GB/s that a chip sends to other slices.",
    lower_bound=1e-3,
)
SLICE_HOP = flags.DEFINE_float(
    "slice_hop_us",
    100.0,
    "With --slice_link_gbytes_per_s, latency in microseconds of the smallest message to another slice.",
    lower_bound=0.0,
)
for flag in (LINK, HOP, SLICE_LINK, SLICE_HOP):
    flags.register_validator(flag, lambda value: value is None or math.isfinite(value), "must be a finite number")


def run() -> ExitCode:
    from resnet_jax.terminal import Reporter, print_result

    if not COLLECTIVES.value and (COMPILE_FOR.value or LINK.value):
        raise UserError("--compile_for and --link_gbytes_per_s need --collectives. Add it.")
    if SLICE_LINK.value and not LINK.value:
        raise UserError("--slice_link_gbytes_per_s needs the speed inside a slice too. Give --link_gbytes_per_s.")
    if SLICE_LINK.value and SLICES.value == 1:
        raise UserError("--slice_link_gbytes_per_s needs several slices. Give --slices.")
    if SLICES.value > 1 and not COMPILE_FOR.value:
        raise UserError("--slices needs the kind of slice to compile for. Give --compile_for.")
    for hop, link in ((HOP, LINK), (SLICE_HOP, SLICE_LINK)):
        if hop.present and not link.value:
            raise UserError(f"--{hop.name} has no effect without --{link.name}. Give both or neither.")
    max_unreadable = CONFIG.value.dataset.max_unreadable
    with Reporter(active=FORMAT.value == "text", max_unreadable=max_unreadable) as reporter:
        result, text = _analyze(reporter) if COLLECTIVES.value else _measure(reporter)
    print_result(text if FORMAT.value == "text" else json.dumps(dataclasses.asdict(result)))
    return ExitCode.DONE


def _measure(reporter):
    """Return the measured speed, and the text to print."""
    from resnet_jax.data.sources import open_sources
    from resnet_jax.diagnostics import throughput
    from resnet_jax.runtime import parallel
    from resnet_jax.training import experiment

    experiment.check(CONFIG.value, parallel.make_mesh())  # Before the dataset is downloaded.
    dataset = CONFIG.value.dataset
    speed = throughput.measure(CONFIG.value, open_sources(dataset.name, dataset.data_dir), reporter)
    return speed, throughput.format_throughput(speed)


def _analyze(reporter):
    """Return the analysis of the compiled step, and the text to print."""
    from resnet_jax.diagnostics.step_analysis import Links, analyze_step, format_analysis
    from resnet_jax.runtime import parallel, tpu_topology
    from resnet_jax.training import experiment

    mesh = parallel.make_mesh(tpu_topology.describe(COMPILE_FOR.value, SLICES.value) if COMPILE_FOR.value else None)
    experiment.check(CONFIG.value, mesh)
    abstract_experiment = experiment.build_abstract(CONFIG.value, mesh)
    reporter.print("Compiling the train step ...\n")
    links = None if LINK.value is None else Links(1e9 * LINK.value, 1e-6 * HOP.value)
    links_between_slices = None if SLICE_LINK.value is None else Links(1e9 * SLICE_LINK.value, 1e-6 * SLICE_HOP.value)
    analysis = analyze_step(abstract_experiment, links, links_between_slices)
    return analysis, format_analysis(analysis)
