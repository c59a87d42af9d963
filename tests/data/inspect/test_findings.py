"""What would spoil a run, of small folders: each test says in which of the two lists a sentence belongs."""

import numpy as np
import pytest

from resnet_jax.data.inspect import findings
from resnet_jax.data.sources import ArraySource


class Bare:
    """A source without the extras: its labels are known only by reading, as those of TFDS."""

    def __init__(self, labels, classes=("cat", "dog")):
        self.classes, self._labels = classes, labels

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        return np.full((4, 4, 3), index, np.uint8), self._labels[index]


@pytest.fixture
def files(noise):
    """A folder that is as it should be."""
    names = [
        f"{split}/{name}/{number}.png" for split in ("train", "val") for name in ("cat", "dog") for number in range(3)
    ]
    return {name: noise() for name in names}


def test_nothing_to_say_of_a_good_folder(examine, folder, files):
    inspection = examine(folder(files), validation_split="val")
    assert inspection.would_spoil == inspection.worth_knowing == []


def test_too_few_for_a_batch(examine, folder, files):
    assert examine(folder(files), batch_size=6).would_spoil == []
    (spoils,) = examine(folder(files), batch_size=7).would_spoil
    assert spoils == "batch_size 7 is more than the 6 training examples: lower it"


def test_unreadable_pictures_are_counted_against_the_limit(examine, folder, files):
    name = folder({**files, "train/cat/x.png": b"", "val/cat/y.png": b"text"})
    assert any("cannot be read: 2" in sentence for sentence in examine(name, max_unreadable=2).worth_knowing)
    inspection = examine(name, max_unreadable=1)
    assert inspection.would_spoil == ["pictures that cannot be read: 2, where dataset.max_unreadable allows 1"]
    assert {path.rpartition("/")[2]: why for path, why in inspection.unreadable.items()} == {
        "x.png": "the file is empty",
        "y.png": "it is no JPEG, PNG, WebP, BMP or GIF picture",
    }


def test_shapes_that_differ_later_than_a_run_looks(examine):
    images = [np.zeros((4, 4, 3), np.uint8)] * 70 + [np.zeros((4, 5, 3), np.uint8)]
    sources = {"train": ArraySource(images, np.zeros(71, int), ("cat",))}
    (spoils,) = examine(sources).would_spoil
    assert "train[0] [4, 4, 3] and train[70] [4, 5, 3]" in spoils
    assert examine(sources, image_size=4).would_spoil == [spoils]  # As a whole they would stay in memory.
    assert examine(sources, image_size=4, feed="streaming").would_spoil == []


def test_a_label_that_is_no_class(examine):
    (spoils,) = examine({"train": Bare([0, 1, 2, -1])}).would_spoil
    assert spoils == "labels that are none of the 2 classes: 2 of the 4 training examples, such as train[2] with 2"


def test_an_unlabelled_split_harms_only_where_it_is_used(examine):
    sources = {"train": Bare([0, 1]), "test": Bare([-1, -1])}
    inspection = examine(sources, test_split="none")
    assert inspection.would_spoil == []
    assert "test has examples without a label; no part of the run uses them" in inspection.worth_knowing
    assert any("2 of the 2 test examples, such as test[0] with -1" in it for it in examine(sources).would_spoil)


def test_a_class_without_pictures_is_a_mistake_in_ones_own_folder_only(examine, folder, files):
    inspection = examine(folder({**files, "train/fox/notes.txt": b"no picture here"}))
    assert inspection.would_spoil == ["classes without any picture: fox"]
    inspection = examine({"train": Bare([0, 1], classes=("cat", "dog", "fox"))})
    assert inspection.would_spoil == []
    assert "classes without any picture: fox" in inspection.worth_knowing


def test_classes_that_training_lacks(examine, folder, files, noise):
    name = folder({**files, "val/fox/a.png": noise()})
    assert examine(name, validation_split="val").would_spoil == [
        "classes of val that training lacks, and cannot learn: fox"
    ]
    assert examine(name, validation_split="none").would_spoil == []


def test_classes_that_training_lacks_by_its_slice(examine):
    sources = {"train": Bare([0, 0, 1])}
    (spoils,) = examine(sources, train_split="train[:2]", test_split="train[2:]").would_spoil
    assert spoils == "classes of train[2:] that training lacks, and cannot learn: dog"


def test_classes_that_validation_lacks(examine, folder, files, noise):
    inspection = examine(folder({**files, "train/fox/a.png": noise()}), validation_split="val")
    assert inspection.would_spoil == []
    assert inspection.worth_knowing == ["classes that val lacks: fox"]


def test_leakage(examine, folder, files):
    name = folder({**files, "val/cat/leak.png": files["train/cat/0.png"]})
    inspection = examine(name, validation_split="val")
    assert inspection.would_spoil == [
        "leakage: training has 1 of the 7 validation examples (14.29%), whose score would flatter"
    ]
    assert "pictures that repeat others, pixel by pixel: 1" in inspection.worth_knowing
    assert examine(name, validation_split="none").would_spoil == []


def test_leakage_between_slices_of_one_split(examine):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    images[18] = images[0]
    sources = {"train": ArraySource(images, np.arange(20) % 2, ("cat", "dog"))}
    halves = {"train_split": "train[:50%]", "test_split": "train[50%:]"}
    assert any("1 of the 10 test examples" in sentence for sentence in examine(sources, **halves).would_spoil)


def test_a_leak_that_hardly_moves_a_score(examine, folder, files, monkeypatch):
    monkeypatch.setattr(findings, "MOST_LEAKED", 1 / 7)
    inspection = examine(folder({**files, "val/cat/leak.png": files["train/cat/0.png"]}), validation_split="val")
    assert inspection.would_spoil == []
    assert any(sentence.startswith("leakage: ") for sentence in inspection.worth_knowing)


def test_one_picture_under_two_labels(examine, folder, files, monkeypatch):
    name = folder({**files, "train/dog/cat.png": files["train/cat/0.png"]})
    assert examine(name).would_spoil == ["the same picture under several labels: 2 of the 7 training examples (28.57%)"]
    monkeypatch.setattr(findings, "MOST_CONTRADICTORY", 2 / 7)
    assert examine(name).would_spoil == []


def test_ignored_files_are_worth_knowing(examine, folder, files):
    inspection = examine(folder({**files, "train/Thumbs.db": b"", "val/cat/notes.txt": b""}))
    assert inspection.would_spoil == []
    assert sorted(path.rpartition("/")[2] for path in inspection.ignored) == ["Thumbs.db", "notes.txt"]
    assert inspection.worth_knowing[-1].endswith("in no class: 2")
