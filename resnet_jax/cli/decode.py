"""Decode the images of a dataset once, so that training reads pixels: faster, but in more than twice the space.

    python main.py decode --dataset=imagenet2012 --data_dir=/data/tfds --to=/data/imagenet256
    python main.py --config=configs/imagenet.py --config.dataset.name=decoded:/data/imagenet256 --workdir=/tmp/imagenet

The images are shrunk so that their short side has `--size` pixels. Labels and order stay the same. If the command is
interrupted, run it again, and it resumes.
"""

import logging

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode

logger = logging.getLogger(__name__)

DATASET = flags.DEFINE_string("dataset", None, "The dataset, such as imagenet2012 or folder:/path.", required=True)
DATA_DIR = shared_flags.define_data_dir("The directory of TFDS datasets; unset: $TFDS_DATA_DIR, or that of TFDS.")
TO = flags.DEFINE_string("to", None, "The directory to write to.", required=True)
SIZE = flags.DEFINE_integer("size", 256, "Pixels of the short side; smaller images keep their size.", lower_bound=1)
NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Decoding processes; unset: one per core, up to 16.", lower_bound=0
)
MAX_UNREADABLE = flags.DEFINE_integer("max_unreadable", 100, "Stop at more unreadable images than this.", lower_bound=0)


def run() -> ExitCode:
    from resnet_jax.data.decoded_writer import write_decoded
    from resnet_jax.data.sources import canonical_name, open_sources
    from resnet_jax.data.workers import default_workers
    from resnet_jax.terminal import Reporter

    name = canonical_name(DATASET.value)
    workers = default_workers() if NUM_WORKERS.value is None else NUM_WORKERS.value
    with Reporter(max_unreadable=MAX_UNREADABLE.value) as reporter:
        sources = open_sources(name, DATA_DIR.value)
        write_decoded(name, sources, TO.value, SIZE.value, workers, reporter)
        logger.info(f"Decoded to {TO.value}. Train with --config.dataset.name=decoded:{TO.value}.")
    return ExitCode.DONE
