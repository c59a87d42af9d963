"""Convert a TFDS dataset from tfrecord files to array_record files."""

import logging

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode

logger = logging.getLogger(__name__)

DATASET = flags.DEFINE_string("dataset", None, "The TFDS name of the dataset, such as imagenet2012.", required=True)
DATA_DIR = shared_flags.define_data_dir(
    "The TFDS data_dir with the tfrecord files; unset: $TFDS_DATA_DIR if it is set, else the default of TFDS."
)
TO = flags.DEFINE_string(
    "to", None, "The folder to write to. Afterwards, pass it as --config.dataset.data_dir.", required=True
)


def run() -> ExitCode:
    from resnet_jax.data.tfrecord_conversion import convert
    from resnet_jax.terminal import Reporter

    with Reporter() as reporter:
        folder = convert(DATASET.value, DATA_DIR.value, TO.value, reporter)
        logger.info(f"Converted to {folder}. Train with --config.dataset.data_dir={TO.value}.")
    return ExitCode.DONE
