"""Convert a TFDS set from tfrecord files to array_record files."""

from absl import flags

DATASET = flags.DEFINE_string("dataset", None, "The TFDS name of the set, such as imagenet2012.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps it; unset: $TFDS_DATA_DIR or TFDS's own folder.")
TO = flags.DEFINE_string("to", None, "Another folder, to be given as --config.dataset.data_dir afterwards.")
flags.mark_flags_as_required(["dataset", "to"])


def run() -> int:
    from resnet_jax.data.tfrecord_conversion import convert
    from resnet_jax.terminal import Reporter

    reporter = Reporter()
    folder = convert(DATASET.value, DATA_DIR.value, TO.value, reporter)
    reporter.print(f"Converted to {folder}: train with --config.dataset.data_dir={TO.value}")
    return 0
