import shutil

import numpy as np
import pytest
from PIL import Image

import resnet_jax
from resnet_jax.data import decoded_writer
from resnet_jax.data.bit_depth import measure
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.decoded_writer import shrink, write_decoded
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter

SIZES = [(40, 60), (80, 50), (20, 30), (33, 33)]  # height and width


@pytest.fixture
def folder(tmp_path):
    """A folder dataset of 12 images of four sizes in two splits, one of which cannot be read."""
    random = np.random.default_rng(0)
    for split, count in (("train", 9), ("test", 3)):
        for number in range(count):
            directory = tmp_path / "images" / split / ("cat" if number % 3 else "dog")
            directory.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (*SIZES[number % 4], 3), np.uint8)
            Image.fromarray(pixels).save(directory / f"{number}.{'jpg' if number % 2 else 'png'}")
    (tmp_path / "images" / "train" / "dog" / "6.png").write_bytes(b"no image")
    return f"folder:{tmp_path}/images"


def decode(name, target, size=32, num_workers=0, max_unreadable=1):
    with Reporter(active=False, max_unreadable=max_unreadable) as reporter:
        write_decoded(name, open_sources(name), str(target), size, num_workers, reporter)
        return reporter.unreadable


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_images_labels_and_order_stay_the_same(folder, tmp_path, num_workers):
    unreadable = decode(folder, tmp_path / "decoded", num_workers=num_workers)
    assert [name.rpartition("/")[2] for name in unreadable] == ["6.png"]
    originals, copies = open_sources(folder), open_sources(f"decoded:{tmp_path}/decoded")
    assert copies.keys() == originals.keys()
    for split, original in originals.items():
        copy = copies[split]
        assert copy.classes == original.classes
        np.testing.assert_array_equal(copy.labels, original.labels)
        for index in range(len(original)):
            image, label = original[index]
            if original.name(index).endswith("6.png"):
                with pytest.raises(Unreadable, match="not a JPEG"):
                    copy[index]
                continue
            np.testing.assert_array_equal(copy[index][0], shrink(image, 3, 32))
            assert copy[index][1] == label
            assert copy.name(index) == original.name(index)
    assert not (tmp_path / "decoded" / "progress.jsonl").exists()


@pytest.mark.parametrize(
    ("shape", "expected"), [((400, 600), (100, 150)), ((90, 80), (90, 80)), ((130, 100), (130, 100))]
)
def test_short_side_has_the_size_and_small_images_keep_theirs(shape, expected):
    assert shrink(np.zeros((*shape, 3), np.uint8), 3, 100).shape == (*expected, 3)


def test_interrupted_command_resumes(folder, tmp_path, monkeypatch):
    """It is interrupted twice, the first time while it records a file."""
    monkeypatch.setattr(decoded_writer, "IMAGES_PER_TASK", 1)
    monkeypatch.setattr(decoded_writer, "TASKS_PER_SHARD", 2)
    monkeypatch.setattr(decoded_writer, "SHARD_EXAMPLES", 2)
    decode(folder, tmp_path / "whole")
    write_shard, written = decoded_writer._write_shard, []

    def interrupt(path, *arguments):
        if len(written) in (2, 4):
            written.append("interrupted")
            raise KeyboardInterrupt
        written.append(path.name)
        return write_shard(path, *arguments)

    monkeypatch.setattr(decoded_writer, "_write_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(folder, tmp_path / "resumed")
    with pytest.raises(UserError, match=r"holds no decoded dataset \(decoded.json is missing\)"):
        open_sources(f"decoded:{tmp_path}/resumed")
    with (tmp_path / "resumed" / "progress.jsonl").open("a") as file:
        file.write('{"shard": "train-0000')  # as the power fails
    kept = (tmp_path / "resumed" / written[0]).stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        decode(folder, tmp_path / "resumed")
    decode(folder, tmp_path / "resumed")
    assert (tmp_path / "resumed" / written[0]).stat().st_mtime_ns == kept
    for path in (tmp_path / "whole").iterdir():
        if path.suffix != ".array_record":  # They hold the time of writing.
            assert path.read_bytes() == (tmp_path / "resumed" / path.name).read_bytes()
    whole, resumed = (open_sources(f"decoded:{tmp_path}/{name}")["train"] for name in ("whole", "resumed"))
    assert whole.content_digest == resumed.content_digest


def test_unreadable_images_of_earlier_starts_count(folder, tmp_path, monkeypatch):
    """The start is interrupted after all images were decoded."""
    with monkeypatch.context() as patch:
        patch.setattr(decoded_writer, "_as_npy", lambda array: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decode(folder, tmp_path / "decoded")
    assert [name.rpartition("/")[2] for name in decode(folder, tmp_path / "decoded")] == ["6.png"]


def test_damaged_dataset_is_not_called_missing(folder, tmp_path):
    decode(folder, tmp_path / "decoded")
    (tmp_path / "decoded" / "train.labels.npy").unlink()
    with pytest.raises(UserError, match=r"is damaged.*train\.labels\.npy"):
        open_sources(f"decoded:{tmp_path}/decoded")
    (tmp_path / "decoded" / "decoded.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is damaged"):
        open_sources(f"decoded:{tmp_path}/decoded")


def test_dataset_that_has_changed_is_not_resumed(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(decoded_writer, "_as_npy", lambda array: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decode(folder, tmp_path / "decoded")
    directory = tmp_path / "images" / "train" / "cat"
    shutil.copy(directory / "1.jpg", directory / "new.jpg")
    with pytest.raises(UserError, match="an unfinished dataset with other images or settings"):
        decode(folder, tmp_path / "decoded")


def test_images_of_twelve_bits_are_scaled_as_in_a_run(tmp_path):
    directory = tmp_path / "images" / "train" / "cell"
    directory.mkdir(parents=True)
    levels = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(directory / "0.png")
    decode(f"folder:{tmp_path}/images", tmp_path / "decoded")
    image, _ = open_sources(f"decoded:{tmp_path}/decoded")["train"][0]
    assert image.max() == 255
    # A run stores this, so that prediction scales the original files alike.
    assert measure(Subset.from_split(open_sources(f"decoded:{tmp_path}/decoded"), "train")) == 12


def test_directories_of_clients_are_not_lost_silently(tmp_path):
    for client in ("a", "b"):
        directory = tmp_path / "clients" / client / "cat"
        directory.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(directory / "0.png")
    with pytest.raises(UserError, match="a decoded dataset cannot record the client of each image"):
        decode(f"clients:{tmp_path}/clients", tmp_path / "decoded")


def test_another_dataset_is_not_resumed(folder, tmp_path):
    decode(folder, tmp_path / "decoded")
    with pytest.raises(UserError, match="holds a complete dataset already"):
        decode(folder, tmp_path / "decoded")
    with pytest.raises(UserError, match=r"is not empty\. Remove it, or choose another --to"):
        decode(folder, tmp_path / "images")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "progress.jsonl").write_text('{"origin": "another"}\n')
    with pytest.raises(UserError, match="an unfinished dataset with other images or settings"):
        decode(folder, tmp_path / "part")


def test_too_many_unreadable_images_end_the_command(folder, tmp_path):
    with pytest.raises(UserError, match=r"6\.png"):
        decode(folder, tmp_path / "decoded", max_unreadable=0)


def test_missing_file_is_named(folder, tmp_path):
    decode(folder, tmp_path / "decoded")
    (tmp_path / "decoded" / "train-00000.array_record").unlink()
    with pytest.raises(UserError, match=r"train-00000\.array_record is missing"):
        open_sources(f"decoded:{tmp_path}/decoded")


def test_run_trains_on_decoded_images(tiny_config, folder, tmp_path):
    """It replaces the unreadable image, as it does for a folder."""
    decode(folder, tmp_path / "decoded")
    tiny_config.dataset.update(name=f"decoded:{tmp_path}/decoded", train_split="train", test_split="test")
    tiny_config.dataset.update(image_size=16, num_workers=0, validation_split="none")
    tiny_config.batch_size = 8
    result = resnet_jax.train(tiny_config, str(tmp_path / "run"))
    assert result["test"]["examples"] == 3
