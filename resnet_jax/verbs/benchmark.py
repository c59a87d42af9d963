"""Tell what a train step takes, from its compiled program: its collectives, its memory and its FLOPs.

With `--compile_for` it is compiled for TPUs that need not be there. Of the pictures none is read, but to see its size.

With `--format=json` the line has the fields of `training.analysis.Analysis`.
"""

import dataclasses
import json

from absl import flags
from ml_collections import config_flags

from resnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, such as configs/imagenet.py.")
COLLECTIVES = flags.DEFINE_bool("collectives", False, "Tell what the devices exchange in a train step.")
COMPILE_FOR = flags.DEFINE_string("compile_for", None, "A TPU slice that need not be there: v5e:2x4, v5p:2x2x1, ...")
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
    from resnet_jax import parallel, topology
    from resnet_jax.terminal import ProgressLine
    from resnet_jax.training import setup
    from resnet_jax.training.analysis import analyze, report

    if not COLLECTIVES.value:
        raise UserError("benchmark tells what devices exchange in a train step, and measures no speed: --collectives")
    mesh = parallel.make_mesh(topology.describe(COMPILE_FOR.value) if COMPILE_FOR.value else None)
    setup.check(CONFIG.value, mesh)
    progress = ProgressLine(active=FORMAT.value == "text" and parallel.is_main_process())
    parts = setup.prepare_described(CONFIG.value, mesh, progress.print)
    progress.print("Compiling the train step ...\n")
    analysis = analyze(parts, LINK.value and 1e9 * LINK.value, 1e-6 * HOP.value)
    if FORMAT.value == "text":
        progress.print(report(analysis))
    elif parallel.is_main_process():
        print(json.dumps(dataclasses.asdict(analysis)))
    return 0
