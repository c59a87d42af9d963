"""Findings about small folders: which sentences are reported as spoiling a run and which as worth knowing."""

import numpy as np
import pytest

from resnet_jax.data.inspect import findings
from resnet_jax.data.sources import ArraySource


class Bare:
    """A source without optional members: its labels are known only by reading, as with TFDS."""

    def __init__(self, labels, classes=("cat", "dog")):
        self.classes, self._labels = classes, labels

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        return np.full((4, 4, 3), index, np.uint8), self._labels[index]


@pytest.fixture
def files(noise):
    """Return the files of a folder without problems."""
    names = [
        f"{split}/{name}/{number}.png" for split in ("train", "val") for name in ("cat", "dog") for number in range(3)
    ]
    return {name: noise() for name in names}


def test_good_folder_has_no_findings(examine, folder, files):
    inspection = examine(folder(files), validation_split="val")
    assert inspection.would_spoil == inspection.worth_knowing == []


def test_dataset_smaller_than_a_batch_spoils(examine, folder, files):
    assert examine(folder(files), batch_size=6).would_spoil == []
    (spoils,) = examine(folder(files), batch_size=7).would_spoil
    assert spoils == "batch_size (7) exceeds the number of training examples (6). Lower batch_size."


def test_unreadable_images_are_compared_with_the_limit(examine, folder, files):
    name = folder({**files, "train/cat/x.png": b"", "val/cat/y.png": b"text"})
    sentence = "Images that cannot be read: 2, of which 2 are in the splits of the run. dataset.max_unreadable allows "
    assert f"{sentence}2." in examine(name, validation_split="val", max_unreadable=2).worth_knowing
    inspection = examine(name, validation_split="val", max_unreadable=1)
    assert inspection.would_spoil == [f"{sentence}1."]
    assert {path.rpartition("/")[2]: why for path, why in inspection.unreadable.items()} == {
        "x.png": "the file is empty",
        "y.png": "not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image",
    }


def test_unreadable_images_of_other_splits_do_not_spoil(examine, folder, files):
    inspection = examine(folder({**files, "val/cat/y.png": b"text"}), max_unreadable=0)
    assert inspection.would_spoil == []
    assert inspection.worth_knowing[0].startswith("Images that cannot be read: 1, of which 0 are in the splits")


def test_different_shapes_beyond_the_first_images_spoil(examine):
    class OneWiderImage(Bare):
        def __getitem__(self, index):
            return np.full((4, 5 if index == 70 else 4, 3), index, np.uint8), index % 2

    sources = {"train": OneWiderImage([0] * 71)}
    (spoils,) = examine(sources).would_spoil
    assert "train[0] [4, 4, 3] and train[70] [4, 5, 3]" in spoils
    assert examine(sources, image_size=4).would_spoil == [spoils]  # A resident feed does not resize images one by one.
    assert examine(sources, image_size=4, feed="streaming").would_spoil == []


def test_label_outside_the_classes_spoils(examine):
    (spoils,) = examine({"train": Bare([0, 1, 2, -1])}).would_spoil
    assert spoils == "2 of 4 training examples have a label outside the 2 classes, such as train[2] with 2."


def test_unlabeled_split_spoils_only_if_it_is_used(examine):
    sources = {"train": Bare([0, 1]), "test": Bare([-1, -1])}
    inspection = examine(sources, test_split="none")
    assert inspection.would_spoil == []
    assert "test has examples without a label, which the run does not use." in inspection.worth_knowing
    assert any(
        "2 of 2 test examples" in sentence and "such as test[0] with -1" in sentence
        for sentence in examine(sources).would_spoil
    )


def test_class_without_images_spoils_only_in_a_folder(examine, folder, files):
    inspection = examine(folder({**files, "train/fox/notes.txt": b"no image here"}))
    assert inspection.would_spoil == ["Classes without any image: fox."]
    inspection = examine({"train": Bare([0, 1], classes=("cat", "dog", "fox"))})
    assert inspection.would_spoil == []
    assert "Classes without any image: fox." in inspection.worth_knowing


def test_single_class_spoils(examine, folder, noise):
    (spoils,) = examine(folder({"cat/a.png": noise(), "cat/b.png": noise()})).would_spoil
    assert spoils.startswith("all training examples belong to one class (cat), so there is nothing to learn.")


def test_similar_names_are_worth_knowing(examine):
    inspection = examine({"train": Bare([0, 1], classes=("cat", "Cat"))})
    assert inspection.would_spoil == []
    assert any("'cat' (label 0) and 'Cat' (label 1)" in sentence for sentence in inspection.worth_knowing)


def test_bits_in_use_are_worth_knowing(examine, folder):
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    inspection = examine(folder({"cat/a.png": levels, "dog/b.png": levels[::-1]}))
    assert inspection.would_spoil == []
    assert inspection.worth_knowing == ["16-bit images use only 12 bits, which are scaled to 8 (dataset.bit_depth=12)."]
    assert inspection.mean == pytest.approx((0.5,) * 3, abs=0.01)


def test_class_without_training_images_spoils(examine, folder, files, noise):
    name = folder({**files, "val/fox/a.png": noise()})
    assert examine(name, validation_split="val").would_spoil == [
        "Classes of val without training images, so the model cannot learn them: fox."
    ]
    assert examine(name, validation_split="none").would_spoil == []


def test_class_outside_the_training_slice_spoils(examine):
    sources = {"train": Bare([0, 1, 2], classes=("cat", "dog", "fox"))}
    (spoils,) = examine(sources, train_split="train[:2]", test_split="train[2:]").would_spoil
    assert spoils == "Classes of train[2:] without training images, so the model cannot learn them: fox."


def test_class_missing_in_validation_is_worth_knowing(examine, folder, files, noise):
    inspection = examine(folder({**files, "train/fox/a.png": noise()}), validation_split="val")
    assert inspection.would_spoil == []
    assert inspection.worth_knowing == ["Classes missing in val: fox."]


def test_leakage_spoils(examine, folder, files):
    name = folder({**files, "val/cat/leak.png": files["train/cat/0.png"]})
    inspection = examine(name, validation_split="val")
    assert inspection.would_spoil == [
        "Leakage: 1 of 7 validation examples (14.29%) are also in the training data, so scores would be too high."
    ]
    assert "Images that repeat another image pixel by pixel: 1." in inspection.worth_knowing
    assert examine(name, validation_split="none").would_spoil == []


def test_leakage_between_slices_of_one_split_spoils(examine):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    images[18] = images[0]
    sources = {"train": ArraySource(images, np.arange(20) % 2, ("cat", "dog"))}
    halves = {"train_split": "train[:50%]", "test_split": "train[50%:]"}
    assert any("1 of 10 test examples" in sentence for sentence in examine(sources, **halves).would_spoil)


def test_small_leakage_is_worth_knowing(examine, folder, files, monkeypatch):
    monkeypatch.setattr(findings, "MAX_LEAKED", 1 / 7)
    inspection = examine(folder({**files, "val/cat/leak.png": files["train/cat/0.png"]}), validation_split="val")
    assert inspection.would_spoil == []
    assert any(sentence.startswith("Leakage: ") for sentence in inspection.worth_knowing)


def test_image_with_two_labels_spoils(examine, folder, files, monkeypatch):
    name = folder({**files, "train/dog/cat.png": files["train/cat/0.png"]})
    assert examine(name).would_spoil == ["The same image has several labels: 2 of 7 training examples (28.57%)."]
    monkeypatch.setattr(findings, "MAX_CONTRADICTORY", 2 / 7)
    assert examine(name).would_spoil == []


def test_ignored_files_are_worth_knowing(examine, folder, files):
    inspection = examine(folder({**files, "train/Thumbs.db": b"", "val/cat/notes.txt": b""}))
    assert inspection.would_spoil == []
    assert sorted(path.rpartition("/")[2] for path in inspection.ignored) == ["Thumbs.db", "notes.txt"]
    assert inspection.worth_knowing[-1].endswith("are not images of a class: 2 (1 .db, 1 .txt).")
