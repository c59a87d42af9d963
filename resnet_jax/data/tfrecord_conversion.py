"""Conversion of a TFDS dataset from tfrecord files, which do not allow random access, to array_record files.

TFDS has a command for this, `tfds convert_format`. In version 4.9.10 it needs Apache Beam, and omits the metadata of
the dataset unless it is run from the folder of the dataset.
"""

import json
import os
import shutil
import tempfile

from resnet_jax.data.tfds import check_data_dir
from resnet_jax.errors import UserError, first_line, needs_extra
from resnet_jax.terminal import Reporter


def convert(name: str, source: str | None, target: str, reporter: Reporter) -> str:
    """Convert a TFDS dataset that is prepared as tfrecord.

    The examples keep their bytes, their order and their shards. `target` gets the whole dataset or nothing.

    Args:
      name: TFDS name of the dataset.
      source: the data_dir in which the dataset is prepared; None: the default of TFDS.
      target: another data_dir, to which the converted dataset is written; needs as much space again.
      reporter: shows, after every shard, how many examples have been written.

    Returns:
      The folder that was written.

    Raises:
      UserError: if there is no such dataset in tfrecord files, if a shard is damaged, or if the folder exists already
        or cannot be written.
    """
    with needs_extra("converting a dataset", "tensorflow-datasets", "tfds"):
        import tensorflow_datasets as tfds
    with needs_extra("reading tfrecord files", "TensorFlow", "tfds"):
        import tensorflow as tf
    check_data_dir(source)
    check_data_dir(target)
    target = os.path.expanduser(target)
    try:
        builder = tfds.builder(name, data_dir=None if source is None else os.path.expanduser(source))
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"there is no dataset {name!r} to convert ({first_line(error)}). Check --dataset and --data_dir."
        ) from None
    if not builder.is_prepared() or builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"dataset {name!r} is not prepared as tfrecord in {builder.data_dir_root}, so there is nothing to convert. "
            "Set --data_dir to where it is prepared."
        )
    folder = os.path.join(os.path.abspath(target), os.path.relpath(builder.data_path, builder.data_dir_root))
    if os.path.exists(folder):
        raise UserError(f"{folder} already exists. Remove it, or convert to another folder.")
    parent, version = os.path.split(folder)
    try:
        os.makedirs(parent, exist_ok=True)
        # TFDS ignores a folder with such a name. Only its owner can read a temporary folder, so the dataset is written
        # to a folder inside it, which has the usual permissions.
        with tempfile.TemporaryDirectory(prefix=f"{version}.incomplete.", dir=parent) as scratch:
            complete = os.path.join(scratch, version)
            os.mkdir(complete)
            _write_shards(builder, complete, reporter)
            _write_metadata(os.fspath(builder.data_path), complete)
            os.rename(complete, folder)
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"dataset {name!r} could not be converted to {folder} ({first_line(error)}). Check the free space and "
            "permissions there, and whether the files of the dataset are damaged."
        ) from error
    return folder


def _write_shards(builder, folder: str, reporter: Reporter) -> None:
    import tensorflow as tf
    from array_record.python import array_record_module as array_record

    splits = builder.info.splits.values()
    show_progress = reporter.counter("converting examples")
    done, total = 0, sum(split.num_examples for split in splits)
    for split in splits:
        template = split.filename_template.replace(data_dir=folder, filetype_suffix="array_record")
        targets = template.sharded_filepaths(split.num_shards)
        for source, target, length in zip(split.filepaths, targets, split.shard_lengths, strict=True):
            if os.path.dirname(os.path.abspath(target)) != os.path.abspath(folder):
                raise UserError(
                    f"the metadata of the dataset names a file ({target}) outside of {folder}. Do not use this dataset."
                )
            writer = array_record.ArrayRecordWriter(os.fspath(target), "group_size:1")  # As TFDS writes them.
            for example in tf.data.TFRecordDataset(os.fspath(source)).as_numpy_iterator():
                writer.write(example)
            writer.close()
            written = array_record.ArrayRecordReader(os.fspath(target)).num_records()
            if written != length:
                raise UserError(
                    f"{source} is damaged ({written:,} examples instead of {length:,}). Prepare the dataset again."
                )
            done += length
            show_progress(done, total)


def _write_metadata(source: str, folder: str) -> None:
    """Copy the metadata files of the dataset, including features and class names, and state the new file format."""
    for name in os.listdir(source):
        if name.endswith((".json", ".txt")):
            shutil.copyfile(os.path.join(source, name), os.path.join(folder, name))
    path = os.path.join(folder, "dataset_info.json")
    with open(path, encoding="utf-8") as file:
        metadata = json.load(file) | {"fileFormat": "array_record", "alternativeFileFormats": []}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(metadata, file, indent=2)
