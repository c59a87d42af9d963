from types import SimpleNamespace

import numpy as np
import pytest

from resnet_jax.data import sources
from resnet_jax.data.tfrecord_conversion import _write_shards, convert
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter
from tests.recording_reporter import RecordingReporter


def test_dataset_that_cannot_be_converted_is_rejected(test_data, tmp_path):
    pytest.importorskip("tensorflow")
    with pytest.raises(UserError, match="there is no dataset 'cifar11' to convert"):
        convert("cifar11", str(tmp_path), str(tmp_path / "new"), Reporter(active=False))
    with pytest.raises(UserError, match=r"'cifar10' is not prepared as tfrecord .* nothing to convert"):
        convert("cifar10", str(test_data / "tfds"), str(tmp_path / "new"), Reporter(active=False))
    assert not (tmp_path / "new").exists()


def test_metadata_cannot_write_files_elsewhere(tmp_path):
    pytest.importorskip("tensorflow")
    template = SimpleNamespace(
        replace=lambda **_: SimpleNamespace(sharded_filepaths=lambda _: [tmp_path / "new" / ".." / "else"])
    )
    split = SimpleNamespace(
        num_examples=1, num_shards=1, shard_lengths=[1], filepaths=["old"], filename_template=template
    )
    builder = SimpleNamespace(info=SimpleNamespace(splits={"train": split}))
    with pytest.raises(UserError, match=r"outside of .*\. Do not use this dataset"):
        _write_shards(builder, str(tmp_path / "new"), Reporter(active=False))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def original(tmp_path):
    """Return a data_dir with a small MNIST of random images, written by TFDS as tfrecord, its default format."""
    pytest.importorskip("tensorflow")
    import tensorflow_datasets as tfds

    random = np.random.default_rng(0)

    def examples(count):
        images = random.integers(256, size=(count, 28, 28, 1), dtype=np.uint8)
        return [(key, {"image": image, "label": key % 10}) for key, image in enumerate(images)]

    features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    tfds.dataset_builders.store_as_tfds_dataset(
        "mnist",
        version=tfds.builder_cls("mnist").VERSION,
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: examples(count) for split, count in {"train": 300, "test": 100}.items()},
        data_dir=tmp_path / "old",
        file_format="tfrecord",
    )
    return tmp_path / "old"


def test_converted_dataset_has_the_examples_of_the_original(original, tmp_path):
    """A conversion that fails at a damaged shard leaves no files."""
    import tensorflow_datasets as tfds

    new, damaged = tmp_path / "new", tmp_path / "damaged"
    with pytest.raises(UserError, match=rf"python main.py convert --dataset=mnist --data_dir={original} --to="):
        sources.open_sources("mnist", str(original))
    reporter = RecordingReporter()
    convert("mnist", str(original), str(new), reporter)
    assert reporter.progress[-1] == ("converting examples", 400, 400)
    converted = sources.open_sources("mnist", str(new))
    assert {name: len(source) for name, source in converted.items()} == {"train": 300, "test": 100}
    builder = tfds.builder("mnist", data_dir=str(original))
    decoders = {"image": tfds.decode.SkipDecoding()}
    for index, example in enumerate(builder.as_dataset(split="test", decoders=decoders).as_numpy_iterator()):
        assert converted["test"][index] == (example["image"], example["label"])
    assert index == 99
    with pytest.raises(UserError, match="already exists"):
        convert("mnist", str(original), str(new), Reporter(active=False))
    (shard,) = (original / "mnist").glob("*/*test*tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(UserError, match="could not be converted"):
        convert("mnist", str(original), str(damaged), Reporter(active=False))
    assert not list(damaged.rglob("*record*"))
