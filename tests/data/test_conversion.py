import shutil
from types import SimpleNamespace

import pytest

from resnet_jax.data import sources
from resnet_jax.data.conversion import _write_shards, convert
from resnet_jax.errors import UserError


def test_what_cannot_be_converted_is_said(test_data, tmp_path):
    pytest.importorskip("tensorflow")
    with pytest.raises(UserError, match="there is no data set 'cifar11' to convert"):
        convert("cifar11", str(tmp_path), str(tmp_path / "new"), print)
    with pytest.raises(UserError, match=r"'cifar10' is not prepared as tfrecord .* needs no conversion"):
        convert("cifar10", str(test_data / "tfds"), str(tmp_path / "new"), print)
    assert not (tmp_path / "new").exists()


def test_a_description_cannot_have_files_written_elsewhere(tmp_path):
    pytest.importorskip("tensorflow")
    template = SimpleNamespace(
        replace=lambda **_: SimpleNamespace(sharded_filepaths=lambda _: [tmp_path / "new" / ".." / "else"])
    )
    split = SimpleNamespace(
        num_examples=1, num_shards=1, shard_lengths=[1], filepaths=["old"], filename_template=template
    )
    builder = SimpleNamespace(info=SimpleNamespace(splits={"train": split}))
    with pytest.raises(UserError, match=r"is outside of .*: do not trust it"):
        _write_shards(builder, str(tmp_path / "new"), print)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_converted_set_has_the_examples_of_the_original(test_data, tmp_path):
    """MNIST, prepared by TFDS as tfrecord, as it does by default; a damaged shard leaves nothing behind."""
    pytest.importorskip("tensorflow")
    import tensorflow_datasets as tfds

    old, new, damaged = tmp_path / "old", tmp_path / "new", tmp_path / "damaged"
    shutil.copytree(test_data / "mnist", old / "downloads" / "manual")
    builder = tfds.builder("mnist", data_dir=str(old), file_format="tfrecord")
    builder.download_and_prepare()
    with pytest.raises(UserError, match=rf"python main.py convert --dataset=mnist --data_dir={old} --to="):
        sources.open_dataset("mnist", str(old))
    told = []
    convert("mnist", str(old), str(new), lambda done, total: told.append((done, total)))
    assert told[-1] == (70_000, 70_000)
    converted = sources.open_dataset("mnist", str(new))
    assert {name: len(source) for name, source in converted.items()} == {"train": 60_000, "test": 10_000}
    decoders = {"image": tfds.decode.SkipDecoding()}
    originals = builder.as_dataset(split="test", decoders=decoders).take(500).as_numpy_iterator()
    for index, original in enumerate(originals):
        assert converted["test"][index] == (original["image"], original["label"])
    with pytest.raises(UserError, match="exists already"):
        convert("mnist", str(old), str(new), print)
    (shard,) = (old / "mnist").glob("*/*test*tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(UserError, match="could not be converted"):
        convert("mnist", str(old), str(damaged), print)
    assert not list(damaged.rglob("*record*"))
