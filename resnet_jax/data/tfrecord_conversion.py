"""Conversion of a TFDS set from tfrecord files, which cannot be read at random, to array_record files.

TFDS has a command for this, `tfds convert_format`; in version 4.9.10 it takes Apache Beam, and leaves out the set's
description unless it is run from within the set's own folder.
"""

import json
import os
import shutil
import tempfile

from resnet_jax.errors import UserError, first_line
from resnet_jax.terminal import Reporter


def convert(name: str, source: str | None, target: str, reporter: Reporter) -> str:
    """Writes the TFDS set `name`, prepared as tfrecord below the data_dir `source`, below the data_dir `target`.

    The examples keep their bytes, their order and their shards. `target` gets the whole set or nothing.

    Args:
      name: of the set, as TFDS knows it.
      source: the data_dir it lies in; None: TFDS's own.
      target: another data_dir, for which as much room is needed again.
      reporter: shows, after every shard, how many examples have been written.

    Returns:
      The folder that has been written.

    Raises:
      UserError: if there is no such set in tfrecord files, a shard is damaged, or the new folder cannot be written.
    """
    import tensorflow_datasets as tfds

    try:
        import tensorflow as tf
    except ImportError:
        raise UserError("reading tfrecord files needs TensorFlow: pip install tensorflow-cpu") from None
    try:
        builder = tfds.builder(name, data_dir=source)
    except (ValueError, AssertionError) as error:
        raise UserError(f"there is no data set {name!r} to convert ({first_line(error)})") from None
    if not builder.is_prepared() or builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"data set {name!r} is not prepared as tfrecord in {builder.data_dir_root}: it needs no conversion"
        )
    folder = os.path.join(os.path.abspath(target), os.path.relpath(builder.data_path, builder.data_dir_root))
    if os.path.exists(folder):
        raise UserError(f"{folder} exists already: remove it, or convert to another place")
    parent, version = os.path.split(folder)
    try:
        os.makedirs(parent, exist_ok=True)
        # TFDS overlooks folders of such names. What is made within has the usual permissions, which this one has not.
        with tempfile.TemporaryDirectory(prefix=f"{version}.incomplete.", dir=parent) as scratch:
            complete = os.path.join(scratch, version)
            os.mkdir(complete)
            _write_shards(builder, complete, reporter)
            _write_description(os.fspath(builder.data_path), complete)
            os.rename(complete, folder)
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(f"data set {name!r} could not be converted to {folder} ({first_line(error)})") from error
    return folder


def _write_shards(builder, folder: str, reporter: Reporter) -> None:
    import tensorflow as tf
    from array_record.python import array_record_module as array_record

    splits = builder.info.splits.values()
    show = reporter.counter("converting examples")
    done, total = 0, sum(split.num_examples for split in splits)
    for split in splits:
        template = split.filename_template.replace(data_dir=folder, filetype_suffix="array_record")
        targets = template.sharded_filepaths(split.num_shards)
        for source, target, length in zip(split.filepaths, targets, split.shard_lengths, strict=True):
            if os.path.dirname(os.path.abspath(target)) != os.path.abspath(folder):
                raise UserError(f"{target}, which the set's description names, is outside of {folder}: do not trust it")
            writer = array_record.ArrayRecordWriter(os.fspath(target), "group_size:1")  # As TFDS writes them.
            for example in tf.data.TFRecordDataset(os.fspath(source)).as_numpy_iterator():
                writer.write(example)
            writer.close()
            written = array_record.ArrayRecordReader(os.fspath(target)).num_records()
            if written != length:
                raise UserError(f"{source} holds {written:,} examples instead of {length:,}: it is damaged")
            done += length
            show(done, total)


def _write_description(source: str, folder: str) -> None:
    """Copies the description of the set, its features and the names of its classes, with the new file format."""
    for name in os.listdir(source):
        if name.endswith((".json", ".txt")):
            shutil.copyfile(os.path.join(source, name), os.path.join(folder, name))
    path = os.path.join(folder, "dataset_info.json")
    with open(path, encoding="utf-8") as file:
        description = json.load(file) | {"fileFormat": "array_record", "alternativeFileFormats": []}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(description, file, indent=2)
