import os
import pathlib

import numpy as np
import pytest

from resnet_jax.data import folder, splits
from resnet_jax.data.decode import Unreadable
from resnet_jax.errors import UserError


def write(root, *paths):
    """Files, each of which holds its own path."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)


def write_classes(root, sizes):
    write(root, *(f"{name}/{number}.png" for name, size in sizes.items() for number in range(size)))


def open_folder(root):
    return folder.open_folder(f"folder:{root}")


def names(source):
    return [os.path.relpath(source.name(index), source._root) for index in range(len(source))]


class TestWhatIsFound:
    def test_directories_of_splits_and_classes(self, tmp_path):
        write(tmp_path, "train/cat/a.jpg", "train/dog/b.png", "train/dog/c.gif", "val/cat/d.webp", "test/dog/e.bmp")
        sources = open_folder(tmp_path)
        assert {name: len(source) for name, source in sources.items()} == {"train": 3, "val": 1, "test": 1}
        assert {source.classes for source in sources.values()} == {("cat", "dog")}
        assert sorted(sources["train"][index] for index in range(3)) == [
            (b"train/cat/a.jpg", 0),
            (b"train/dog/b.png", 1),
            (b"train/dog/c.gif", 1),
        ]
        assert sources["test"][0] == (b"test/dog/e.bmp", 1)
        assert sources["test"].name(0) == str(tmp_path / "test" / "dog" / "e.bmp")
        assert sources["train"].labels.dtype == np.int32

    def test_classes_without_splits_are_all_for_training(self, tmp_path):
        write(tmp_path, "cat/a.jpg", "dog/b.jpg")
        sources = open_folder(tmp_path)
        assert list(sources) == ["train"]
        assert sources["train"].classes == ("cat", "dog")

    def test_a_class_that_only_one_split_has_is_counted_in_all(self, tmp_path):
        """Else the labels of the splits would mean different things."""
        write(tmp_path, "train/cat/a.jpg", "train/elk/b.jpg", "val/dog/c.jpg")
        sources = open_folder(tmp_path)
        assert sources["train"].classes == sources["val"].classes == ("cat", "dog", "elk")
        assert sorted(sources["train"].labels) == [0, 2]
        assert sources["val"].labels.tolist() == [1]

    def test_extensions_count_in_any_case_and_at_any_depth(self, tmp_path):
        write(tmp_path, "cat/A.JPEG", "cat/2020/may/B.Jpg", "cat/c.PNG", "dog/d.jpg")
        assert sorted(names(open_folder(tmp_path)["train"])) == [
            "cat/2020/may/B.Jpg",
            "cat/A.JPEG",
            "cat/c.PNG",
            "dog/d.jpg",
        ]

    def test_what_is_no_picture_by_its_name_is_ignored_and_counted(self, tmp_path):
        write(
            tmp_path, "train/cat/a.jpg", "train/cat/notes.txt", "train/cat/._a.jpg", "train/loose.jpg", "train/README"
        )
        write(tmp_path, "train/cat/.cache/b.jpg", "train/.hidden/c.jpg", "list.csv")
        train = open_folder(tmp_path)["train"]
        assert names(train) == ["cat/a.jpg"]
        assert train.classes == ("cat",)
        expected = ["README", "cat/._a.jpg", "cat/notes.txt", "loose.jpg"]
        beside = str(tmp_path / "list.csv")
        assert sorted(train.ignored) == [beside, *(str(tmp_path / "train" / path) for path in expected)]

    def test_a_home_directory_may_be_written_as_a_tilde(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        write(tmp_path, "pets/cat/a.jpg")
        assert folder.open_folder("folder:~/pets")["train"][0] == (b"pets/cat/a.jpg", 0)

    def test_a_relative_path_stays_the_same_place_wherever_one_goes(self, tmp_path, monkeypatch):
        write(tmp_path, "pets/cat/a.jpg")
        monkeypatch.chdir(tmp_path)
        train = folder.open_folder("folder:pets")["train"]
        monkeypatch.chdir("/")
        assert train[0] == (b"pets/cat/a.jpg", 0)

    def test_links_are_followed_and_those_in_circles_end(self, tmp_path):
        write(tmp_path, "pets/cat/a.jpg", "elsewhere/b.jpg")
        (tmp_path / "pets" / "dog").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "pets" / "cat" / "again").symlink_to(tmp_path / "pets")
        train = open_folder(tmp_path / "pets")["train"]
        assert sorted(names(train)) == ["cat/a.jpg", "dog/b.jpg"]
        assert sorted(train.labels) == [0, 1]

    def test_names_may_have_any_characters(self, tmp_path):
        odd = os.fsdecode(b"caf\xe9 \xff.jpg")  # Not UTF-8, which Linux allows.
        write(tmp_path, "Kätzchen [1]/a b.jpg")
        pathlib.Path(tmp_path, "Kätzchen [1]", odd).write_bytes(b"odd")
        train = open_folder(tmp_path)["train"]
        assert sorted(image for image, _ in (train[0], train[1])) == ["Kätzchen [1]/a b.jpg".encode(), b"odd"]


class TestOrder:
    def test_does_not_depend_on_how_the_system_lists_files(self, tmp_path, monkeypatch):
        write_classes(tmp_path, {"cat": 20, "dog": 30})
        write(tmp_path, "cat/more/x.jpg", "cat/and/y.jpg")
        expected = names(open_folder(tmp_path)["train"])
        walk = os.walk

        def backwards(top, **options):
            for directory, below, files in walk(top, **options):
                below.sort(reverse=True)
                yield directory, below, sorted(files, reverse=True)

        monkeypatch.setattr(folder.os, "walk", backwards)
        assert names(open_folder(tmp_path)["train"]) == expected

    def test_does_not_depend_on_where_the_folder_lies(self, tmp_path):
        for place in ("here", "there"):
            write_classes(tmp_path / place, {"cat": 20, "dog": 30})
        here, there = (names(open_folder(tmp_path / place)["train"]) for place in ("here", "there"))
        assert here == there

    def test_a_class_is_in_an_order_of_chance(self, tmp_path):
        """Numbered photos are often of one scene after another, so that slices by number would differ."""
        write_classes(tmp_path, {"cat": 100})
        numbers = [int(pathlib.Path(name).stem) for name in names(open_folder(tmp_path)["train"])]
        assert sorted(numbers) == list(range(100))
        assert 20 < np.mean(numbers[:20]) < 80
        assert (np.diff(numbers) > 0).sum() < 70

    @pytest.mark.parametrize("sizes", [(50, 50, 50), (100, 30, 7), (90, 1, 1), (11, 60, 33), (80, 80, 90)])
    def test_every_slice_from_the_start_has_of_each_class_its_share(self, sizes):
        files = [[f"{label}/{number}.jpg" for number in range(size)] for label, size in enumerate(sizes)]
        merged, labels = folder._interleave(files)
        assert sorted(merged) == sorted(file for members in files for file in members)
        assert [int(file.split("/")[0]) for file in merged] == labels
        for percent in range(1, 101):
            indices = splits.select(f"train[:{percent}%]", {"train": len(labels)})["train"]
            counts = np.bincount([labels[index] for index in indices], minlength=len(sizes))
            assert np.abs(counts - np.array(sizes) * len(indices) / sum(sizes)).max() < 1.25

    def test_a_large_class_among_many_small_ones_is_in_every_slice_by_its_share(self):
        """As in a catalogue where most kinds have a picture or two."""
        sizes = [1000] + [1] * 100
        _, labels = folder._interleave([[f"{label}/{number}" for number in range(n)] for label, n in enumerate(sizes)])
        large = np.cumsum(np.array(labels) == 0)
        assert np.abs(large - np.arange(1, 1101) * 1000 / 1100).max() < 2


class TestWhatIsWrong:
    def test_no_folder(self, tmp_path):
        with pytest.raises(UserError, match=r"there is no folder .*/nowhere: .*/nowhere/train/CLASS/PICTURE\.jpg"):
            open_folder(tmp_path / "nowhere")

    def test_a_bucket_is_no_folder(self):
        with pytest.raises(UserError, match="folder:gs://bucket/pictures is no folder of this machine: copy it"):
            folder.canonical_name("folder:gs://bucket/pictures")

    def test_no_path(self):
        with pytest.raises(UserError, match="name the folder of your pictures"):
            folder.open_folder("folder:")

    def test_a_file_is_no_folder(self, tmp_path):
        write(tmp_path, "pets.zip")
        with pytest.raises(UserError, match=r"there is no folder .*pets\.zip"):
            open_folder(tmp_path / "pets.zip")

    def test_splits_without_training(self, tmp_path):
        write(tmp_path, "val/cat/a.jpg", "test/cat/b.jpg")
        assert {name: len(source) for name, source in open_folder(tmp_path).items()} == {"val": 1, "test": 1}

    @pytest.mark.parametrize("paths", [(), ("a.jpg", "b.jpg"), ("cat/notes.txt",), ("train/a.jpg",)])
    def test_no_pictures_in_classes(self, tmp_path, paths):
        write(tmp_path, *paths)
        with pytest.raises(UserError, match=r"holds no pictures in directories of classes: .*/train/CLASS/PICTURE"):
            open_folder(tmp_path)

    def test_a_split_without_pictures_is_named(self, tmp_path):
        write(tmp_path, "train/cat/a.jpg", "val/cat/notes.txt")
        with pytest.raises(UserError, match="/val holds no pictures"):
            open_folder(tmp_path)

    def test_a_file_that_may_not_be_read_is_unreadable(self, tmp_path, monkeypatch):
        write(tmp_path, "cat/a.jpg")
        train = open_folder(tmp_path)["train"]

        def refuse(path, mode):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(Unreadable, match=r"^Permission denied$"):
            train[0]

    def test_a_file_that_has_gone_is_unreadable(self, tmp_path):
        write(tmp_path, "cat/a.jpg")
        train = open_folder(tmp_path)["train"]
        (tmp_path / "cat" / "a.jpg").unlink()
        with pytest.raises(Unreadable, match="No such file"):
            train[0]


def test_ants_and_bees(test_data):
    sources = open_folder(test_data / "pictures" / "hymenoptera")
    assert {name: len(source) for name, source in sources.items()} == {"train": 122, "val": 70}
    assert sources["train"].classes == ("ants", "bees")
