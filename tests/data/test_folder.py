import logging
import os
import pathlib

import numpy as np
import pytest

from resnet_jax.data import folder, splits
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.sources import canonical_name, open_sources
from resnet_jax.errors import UserError


def write(root, *paths):
    """Write files, each of which contains its own path."""
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


class TestOpenFolder:
    def test_directories_become_splits_and_classes(self, tmp_path):
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

    def test_directories_named_like_patterns_are_read(self, tmp_path):
        write(tmp_path / "data[1]*", "train/cat?/a.jpg", "train/[dog]/b.jpg")
        sources = open_folder(tmp_path / "data[1]*")
        assert sources["train"].classes == ("[dog]", "cat?")
        assert len(sources["train"]) == 2

    def test_classes_without_splits_form_the_training_split(self, tmp_path):
        write(tmp_path, "cat/a.jpg", "dog/b.jpg")
        sources = open_folder(tmp_path)
        assert list(sources) == ["train"]
        assert sources["train"].classes == ("cat", "dog")

    def test_all_splits_have_the_classes_of_every_split(self, tmp_path):
        """Otherwise the labels of different splits would have different meanings."""
        write(tmp_path, "train/cat/a.jpg", "train/elk/b.jpg", "val/dog/c.jpg")
        sources = open_folder(tmp_path)
        assert sources["train"].classes == sources["val"].classes == ("cat", "dog", "elk")
        assert sorted(sources["train"].labels) == [0, 2]
        assert sources["val"].labels.tolist() == [1]

    def test_images_are_found_by_extension_in_any_case_and_at_any_depth(self, tmp_path):
        write(tmp_path, "cat/A.JPEG", "cat/2020/may/B.Jpg", "cat/c.PNG", "dog/d.jpg")
        assert sorted(names(open_folder(tmp_path)["train"])) == [
            "cat/2020/may/B.Jpg",
            "cat/A.JPEG",
            "cat/c.PNG",
            "dog/d.jpg",
        ]

    def test_files_that_are_not_images_are_ignored_and_listed(self, tmp_path):
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

    def test_ignored_files_are_counted_in_the_log(self, tmp_path, caplog):
        caplog.set_level(logging.INFO, "resnet_jax")
        write(tmp_path, "train/cat/a.jpg", "train/cat/b.heic", "train/dog/c.png", "train/dog/d.HEIC", "extra/cat/e.jpg")
        open_folder(tmp_path)
        assert "are not images of a class: 3 (2 .heic, 1 .jpg)." in caplog.text

    def test_tilde_is_expanded(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        write(tmp_path, "pets/cat/a.jpg")
        assert folder.open_folder("folder:~/pets")["train"][0] == (b"pets/cat/a.jpg", 0)

    def test_relative_path_stays_valid_in_other_directories(self, tmp_path, monkeypatch):
        write(tmp_path, "pets/cat/a.jpg")
        monkeypatch.chdir(tmp_path)
        train = folder.open_folder("folder:pets")["train"]
        monkeypatch.chdir("/")
        assert train[0] == (b"pets/cat/a.jpg", 0)

    def test_links_are_followed_and_cycles_end(self, tmp_path):
        write(tmp_path, "pets/cat/a.jpg", "elsewhere/b.jpg")
        (tmp_path / "pets" / "dog").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "pets" / "cat" / "again").symlink_to(tmp_path / "pets")
        train = open_folder(tmp_path / "pets")["train"]
        assert sorted(names(train)) == ["cat/a.jpg", "dog/b.jpg"]
        assert sorted(train.labels) == [0, 1]

    def test_file_names_may_have_any_characters(self, tmp_path):
        invalid_utf8 = os.fsdecode(b"caf\xe9 \xff.jpg")  # Linux allows file names that are not UTF-8.
        write(tmp_path, "Kätzchen [1]/a b.jpg")
        pathlib.Path(tmp_path, "Kätzchen [1]", invalid_utf8).write_bytes(b"odd")
        train = open_folder(tmp_path)["train"]
        assert sorted(image for image, _ in (train[0], train[1])) == ["Kätzchen [1]/a b.jpg".encode(), b"odd"]


class TestLayout:
    @pytest.mark.parametrize(
        ("train", "test"),
        [
            ("Train", "Test"),
            ("TRAIN", "TEST"),
            ("Training", "Testing"),
            ("train/train", "test/test"),
            ("data/train", "data/test"),
            ("data/data/Training", "data/data/Testing"),
            ("archive/data/Training/Training", "archive/data/Testing/Testing"),
        ],
    )
    def test_splits_are_found_under_usual_names_and_in_nested_directories(self, tmp_path, train, test):
        write(tmp_path, f"{train}/cat/a.jpg", f"{train}/dog/b.jpg", f"{test}/cat/c.jpg", "readme.txt")
        sources = open_folder(tmp_path)
        found = {split: sorted(names(source)) for split, source in sources.items()}
        assert found == {"train": ["cat/a.jpg", "dog/b.jpg"], "test": ["cat/c.jpg"]}
        assert sources["train"].classes == ("cat", "dog")
        assert sources["train"].ignored == [str(tmp_path / "readme.txt")]

    def test_two_directories_for_a_split_are_rejected(self, tmp_path):
        write(tmp_path, "train/cat/a.jpg", "training/cat/b.jpg")
        with pytest.raises(UserError, match=r"has two directories for the split 'train'\. Remove or rename training\."):
            open_folder(tmp_path)

    @pytest.mark.parametrize(
        ("paths", "rejected"),
        [
            (("seg_train/{}/1.jpg", "seg_test/{}/2.jpg"), "seg_test"),
            (("training_set/training_set/{}/1.jpg", "test_set/test_set/{}/2.jpg"), "test_set"),
            (("patient1/{}/1.jpg", "patient2/{}/2.jpg", "patient3/{}/3.jpg"), "patient1"),
            (("birds/train/{}/1.jpg", "birds/test/{}/2.jpg", "others/{}/3.jpg"), "birds"),
            (("cat/train/1{}.jpg", "cat/test/2{}.jpg", "dog/train/3{}.jpg"), "cat"),
        ],
    )
    def test_directories_that_look_like_splits_are_no_classes(self, tmp_path, paths, rejected):
        write(tmp_path, *(path.format(name) for path in paths for name in ("forest", "glacier")))
        with pytest.raises(UserError, match=rf"/{rejected} does not look like a class, because of its directories"):
            open_folder(tmp_path)

    def test_subdirectories_of_a_class_are_allowed(self, tmp_path):
        write(tmp_path, "cat/2020/a.jpg", "cat/2021/b.jpg", "cat/c.jpg", "dog/2020/d.jpg", "dog/2022/e.jpg")
        assert open_folder(tmp_path)["train"].classes == ("cat", "dog")

    def test_directories_that_look_like_splits_are_classes_in_a_training_directory(self, tmp_path):
        write(tmp_path, *(f"train/{name}/{year}/a.jpg" for name in ("cat", "dog") for year in (2020, 2021)))
        assert open_folder(tmp_path)["train"].classes == ("cat", "dog")

    @pytest.mark.parametrize(
        "directory",
        [
            *("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", "System Volume Information", ".thumbnails"),
            *("#recycle", "lost+found", "__pycache__"),
        ],
    )
    def test_directories_of_systems_are_left_out(self, tmp_path, directory):
        images = ("cat/a.jpg", "dog/b.jpg")
        thumbnails = (f"{directory}/thumbnail.jpg", f"cat/{directory}/a.jpg/thumbnail.jpg", f"{directory}/cat/c.jpg")
        write(tmp_path, *images, *thumbnails)
        train = open_folder(tmp_path)["train"]
        assert (train.classes, sorted(names(train)), train.ignored) == (("cat", "dog"), sorted(images), [])


class TestOrder:
    def test_order_does_not_depend_on_how_the_system_lists_files(self, tmp_path, monkeypatch):
        write_classes(tmp_path, {"cat": 20, "dog": 30})
        write(tmp_path, "cat/more/x.jpg", "cat/and/y.jpg")
        expected = names(open_folder(tmp_path)["train"])
        walk = os.walk

        def backwards(top, **options):
            for directory, subdirectories, files in walk(top, **options):
                subdirectories.sort(reverse=True)
                yield directory, subdirectories, sorted(files, reverse=True)

        monkeypatch.setattr(folder.os, "walk", backwards)
        assert names(open_folder(tmp_path)["train"]) == expected

    def test_order_does_not_depend_on_the_location_of_the_folder(self, tmp_path):
        for place in ("here", "there"):
            write_classes(tmp_path / place, {"cat": 20, "dog": 30})
        here, there = (names(open_folder(tmp_path / place)["train"]) for place in ("here", "there"))
        assert here == there

    def test_order_within_a_class_is_random(self, tmp_path):
        """Photographs with consecutive numbers often show the same scene, so slices by number would differ."""
        write_classes(tmp_path, {"cat": 100})
        numbers = [int(pathlib.Path(name).stem) for name in names(open_folder(tmp_path)["train"])]
        assert sorted(numbers) == list(range(100))
        assert 20 < np.mean(numbers[:20]) < 80
        assert (np.diff(numbers) > 0).sum() < 70

    @pytest.mark.parametrize("sizes", [(50, 50, 50), (100, 30, 7), (90, 1, 1), (11, 60, 33), (80, 80, 90)])
    def test_every_leading_slice_contains_all_classes_in_proportion(self, sizes):
        files = [[f"{label}/{number}.jpg" for number in range(size)] for label, size in enumerate(sizes)]
        merged, labels = folder.interleave(files)
        assert sorted(merged) == sorted(file for members in files for file in members)
        assert [int(file.split("/")[0]) for file in merged] == labels
        for percent in range(1, 101):
            indices = splits.select(f"train[:{percent}%]", {"train": len(labels)})["train"]
            counts = np.bincount([labels[index] for index in indices], minlength=len(sizes))
            assert np.abs(counts - np.array(sizes) * len(indices) / sum(sizes)).max() < 1.25

    def test_large_class_among_many_small_ones_is_spread_in_proportion(self):
        """A catalog in which most classes have one or two images may look like this."""
        sizes = [1000] + [1] * 100
        _, labels = folder.interleave([[f"{label}/{number}" for number in range(n)] for label, n in enumerate(sizes)])
        large = np.cumsum(np.array(labels) == 0)
        assert np.abs(large - np.arange(1, 1101) * 1000 / 1100).max() < 2


class TestErrors:
    def test_missing_folder_is_rejected(self, tmp_path):
        with pytest.raises(UserError, match=r"there is no folder .*/nowhere\. .*/nowhere/train/CLASS/IMAGE\.jpg"):
            open_folder(tmp_path / "nowhere")

    def test_bucket_is_rejected(self):
        with pytest.raises(UserError, match=r"gs://bucket/images is not a path on this machine\. Copy the data"):
            canonical_name("folder:gs://bucket/images")

    def test_name_without_path_is_rejected(self):
        with pytest.raises(UserError, match=r"no path given\. Use --config\.dataset\.name=folder:/path"):
            open_sources("folder:")

    def test_file_in_place_of_a_folder_is_rejected(self, tmp_path):
        write(tmp_path, "pets.zip")
        with pytest.raises(UserError, match=r"there is no folder .*pets\.zip"):
            open_folder(tmp_path / "pets.zip")

    def test_folder_without_training_split_is_opened(self, tmp_path):
        write(tmp_path, "val/cat/a.jpg", "test/cat/b.jpg")
        assert {name: len(source) for name, source in open_folder(tmp_path).items()} == {"val": 1, "test": 1}

    @pytest.mark.parametrize("paths", [(), ("a.jpg", "b.jpg"), ("cat/notes.txt",), ("train/a.jpg",)])
    def test_folder_without_images_in_classes_is_rejected(self, tmp_path, paths):
        write(tmp_path, *paths)
        with pytest.raises(UserError, match=r"has no images in class directories\. .*/train/CLASS/IMAGE"):
            open_folder(tmp_path)

    def test_split_without_images_is_named(self, tmp_path):
        write(tmp_path, "train/cat/a.jpg", "val/cat/notes.txt")
        with pytest.raises(UserError, match="/val has no images"):
            open_folder(tmp_path)

    def test_file_without_permission_is_unreadable(self, tmp_path, monkeypatch):
        write(tmp_path, "cat/a.jpg")
        train = open_folder(tmp_path)["train"]

        def refuse(path, mode):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(Unreadable, match=r"^Permission denied$"):
            train[0]

    def test_deleted_file_is_unreadable(self, tmp_path):
        write(tmp_path, "cat/a.jpg")
        train = open_folder(tmp_path)["train"]
        (tmp_path / "cat" / "a.jpg").unlink()
        with pytest.raises(Unreadable, match="No such file"):
            train[0]


def test_real_folder_is_opened(test_data):
    sources = open_folder(test_data / "pictures" / "hymenoptera")
    assert {name: len(source) for name, source in sources.items()} == {"train": 122, "val": 70}
    assert sources["train"].classes == ("ants", "bees")


class TestContentDigest:
    FILES = ("train/cat/a.jpg", "train/dog/bb.jpg")

    def digest(self, root):
        return open_folder(root)["train"].content_digest

    def test_digest_does_not_depend_on_the_place_and_the_dates_of_the_files(self, tmp_path):
        write(tmp_path / "original", *self.FILES)
        write(tmp_path / "copy", *self.FILES, "val/cat/c.jpg")
        os.utime(tmp_path / "copy" / "train" / "cat" / "a.jpg", (0, 0))
        assert self.digest(tmp_path / "original") == self.digest(tmp_path / "copy")

    @pytest.mark.parametrize(
        ("old", "new"),
        [("cat/a.jpg", "dog/a.jpg"), ("cat/a.jpg", "cat/b.jpg"), ("cat/a.jpg", None)],
        ids=["class", "name", "size"],
    )
    def test_digest_changes_with_classes_names_and_sizes(self, tmp_path, old, new):
        write(tmp_path, *self.FILES, "train/cat/c.jpg")
        before = self.digest(tmp_path)
        if new:
            (tmp_path / "train" / old).rename(tmp_path / "train" / new)
        else:
            (tmp_path / "train" / old).write_text("other")
        assert self.digest(tmp_path) != before

    def test_broken_link_is_accepted(self, tmp_path):
        write(tmp_path, *self.FILES)
        (tmp_path / "train" / "cat" / "link.jpg").symlink_to("nowhere")
        assert self.digest(tmp_path)
