import io
import logging

import numpy as np
import pytest
from PIL import Image

from resnet_jax import config as settings
from resnet_jax.data import class_checks, splits
from resnet_jax.data.folder import open_folder
from resnet_jax.data.sources import ArraySource
from resnet_jax.errors import UserError


def encode(size=4):
    file = io.BytesIO()
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


IMAGE, DAMAGED = encode(), encode(size=40)[:-30]


def check(sources, **changed):
    dataset = settings.default().dataset
    dataset.update(changed)
    splits.resolve(dataset, sources)
    class_checks.check(dataset, sources)


def check_folder(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    check(open_folder(f"folder:{root}"))


def array_source(labels, classes=("cat", "dog")):
    return ArraySource(np.zeros((len(labels), 4, 4, 3), np.uint8), np.array(labels), classes)


def test_good_folder_is_accepted(tmp_path):
    check_folder(tmp_path, {"train/cat/a.png": IMAGE, "train/dog/b.png": IMAGE, "val/cat/c.png": IMAGE})


def test_single_class_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"^all training examples belong to one class \(cat\), so there is nothing to"):
        check_folder(tmp_path, {"cat/a.png": IMAGE, "cat/b.png": IMAGE})
    with pytest.raises(UserError, match=r"belong to one class \(dog\)"):
        check({"train": array_source([1, 1, 1])})


def test_folder_without_images_of_a_class_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"^there are classes without any image \(fox\)\. Add images"):
        check_folder(tmp_path, {"cat/a.png": IMAGE, "dog/b.png": IMAGE, "fox/notes.txt": b""})


def test_class_without_examples_is_accepted_outside_of_folders():
    """Some public datasets have such classes by design."""
    check({"train": array_source([0, 1], classes=("cat", "dog", "fox"))})


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", DAMAGED])
def test_class_without_readable_images_is_rejected(tmp_path, content):
    files = {"train/cat/a.png": IMAGE, "train/dog/b.png": IMAGE, "train/fox/c.png": content, "train/fox/d.png": content}
    with pytest.raises(UserError, match=r"classes of train without any image that can be read \(fox\)"):
        check_folder(tmp_path, files)


def test_class_with_one_readable_image_is_accepted(tmp_path):
    files = {f"train/dog/{number}.png": DAMAGED for number in range(5)}
    check_folder(tmp_path, {**files, "train/dog/x.png": IMAGE, "train/cat/a.png": IMAGE})


def test_class_outside_the_training_slice_is_rejected():
    sources = {"train": array_source([0, 1, 0, 2], classes=("cat", "dog", "fox"))}
    with pytest.raises(UserError, match=r"train\[2:\] has images of classes \(fox\) that train\[:2\] has no images"):
        check(sources, train_split="train[:2]", validation_split="train[2:]")


def test_splits_without_listed_labels_are_not_checked():
    class Unlisted:
        classes = ("cat", "dog")

        def __len__(self):
            return 4

        def __getitem__(self, index):
            raise AssertionError("an example is read")

    check({"train": Unlisted(), "val": array_source([0, 1])})
    check({"train": array_source([0, 1]), "val": Unlisted()})


def test_similar_names_are_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO, "resnet_jax")
    check_folder(tmp_path, {"cat/a.png": IMAGE, "Cat /b.png": IMAGE})
    assert "'Cat ' (label 0) and 'cat' (label 1)" in caplog.text


def test_similar_names_of_different_splits_are_logged_with_the_error(tmp_path, caplog):
    with pytest.raises(UserError, match=r"val has images of classes \(Cat\)"):
        check_folder(tmp_path, {"train/cat/a.png": IMAGE, "train/dog/b.png": IMAGE, "val/Cat/c.png": IMAGE})
    assert "'Cat' (label 0) and 'cat' (label 1)" in caplog.text
