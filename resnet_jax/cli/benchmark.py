"""Measure how fast a recipe trains here, and what holds it up; or tell what its train step takes.

It trains for about a minute, of slow steps for longer, and leaves nothing behind. With `--collectives` it reads the
compiled train step instead: what devices exchange, its memory and its FLOPs. With `--compile_for` that is done for TPUs
that need not be there; of the pictures none is read, but to see its size.

With `--format=json` the line has the fields of `training.speed.Speed`, or of `training.analysis.Analysis`.
"""

import dataclasses
import json

from absl import flags
from ml_collections import config_flags

from resnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, such as configs/imagenet.py.")
COLLECTIVES = flags.DEFINE_bool("collectives", False, "Tell what the devices exchange in a train step.")
COMPILE_FOR = flags.DEFINE_string(
    "compile_for", None, "With --collectives: a TPU slice that need not be there: v5e:2x4, v5p:2x2x1, ..."
)
LINK = flags.DEFINE_float(
    "link_gbytes_per_s", None, "GB/s that a TPU sends in a ring, both ways together: tells the scaling to expect.",
    lower_bound=1e-3,
)  # fmt: skip
HOP = flags.DEFINE_float(
    "hop_us", 1.0, "Microseconds that the smallest message takes to a neighbour in the ring.", lower_bound=0.0
)
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "Tables for people, or one line of JSON.")
flags.mark_flag_as_required("config")


def run() -> int:
    from resnet_jax.diagnostics import hlo, throughput
    from resnet_jax.terminal import Reporter

    if not COLLECTIVES.value and (COMPILE_FOR.value or LINK.value):
        raise UserError("--compile_for and --link_gbytes_per_s are about what devices exchange: add --collectives")
    max_unreadable = CONFIG.value.dataset.max_unreadable
    with Reporter(active=FORMAT.value == "text", max_unreadable=max_unreadable) as reporter:
        found = _analyze(reporter) if COLLECTIVES.value else _measure(reporter)
        if FORMAT.value == "text":
            reporter.print((hlo if COLLECTIVES.value else throughput).report(found))
        else:
            print(json.dumps(dataclasses.asdict(found)))
    return 0


def _measure(reporter):
    from resnet_jax.data.sources import open_sources
    from resnet_jax.diagnostics import throughput

    dataset = CONFIG.value.dataset
    return throughput.measure(CONFIG.value, open_sources(dataset.name, dataset.data_dir), reporter)


def _analyze(reporter):
    from resnet_jax.diagnostics.hlo import analyze
    from resnet_jax.runtime import parallel, tpu_topology
    from resnet_jax.training import experiment

    mesh = parallel.make_mesh(tpu_topology.describe(COMPILE_FOR.value) if COMPILE_FOR.value else None)
    experiment.check(CONFIG.value, mesh)
    parts = experiment.build_abstract(CONFIG.value, mesh)
    reporter.print("Compiling the train step ...\n")
    return analyze(parts, LINK.value and 1e9 * LINK.value, 1e-6 * HOP.value)
