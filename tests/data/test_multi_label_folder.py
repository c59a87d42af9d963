import os

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import canonical_name, is_on_this_machine, open_sources
from resnet_jax.errors import UserError


@pytest.fixture
def make(tmp_path):
    """Return a function that writes images, as `{path: gray level}`, and returns the name of their dataset."""

    def make(images):
        for path, level in images.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), level, np.uint8)).save(tmp_path / path)
        return f"multi_label_folder:{tmp_path}"

    return make


IMAGES = {
    "train/beach/a.png": 0,
    "train/sea/a.png": 0,
    "train/sea/b.png": 1,
    "train/c.png": 2,
    "val/beach/more/a.png": 3,
    "val/beach/a.png": 4,
}


def labels_by_image(source, root):
    """Return the names of the labels of each image, by its path."""
    rows = source.label_sets[source.labels]
    return {
        os.path.relpath(source.name(index), root): {source.classes[number] for number in np.flatnonzero(row)}
        for index, row in enumerate(rows)
    }


def test_image_has_the_labels_of_all_its_directories(make, tmp_path):
    sources = open_sources(make(IMAGES))
    assert sources["train"].classes == sources["val"].classes == ("beach", "sea")
    assert labels_by_image(sources["train"], tmp_path) == {
        "train/beach/a.png": {"beach", "sea"},
        "train/sea/b.png": {"sea"},
        "train/c.png": set(),
    }


def test_images_in_different_subdirectories_are_different(make, tmp_path):
    assert labels_by_image(open_sources(make(IMAGES))["val"], tmp_path) == {
        "val/beach/a.png": {"beach"},
        "val/beach/more/a.png": {"beach"},
    }


def test_folder_without_splits_is_the_training_split(make):
    sources = open_sources(make({"beach/a.png": 0, "sea/a.png": 0}))
    assert list(sources) == ["train"]
    assert len(sources["train"]) == 1


def test_example_is_a_file_with_its_label(make):
    source = open_sources(make(IMAGES))["train"]
    content, label = source[0]
    assert content.startswith(b"\x89PNG")
    assert label == source.labels[0]


@pytest.mark.parametrize("other", ["sea/a.bmp", "a.bmp"])
def test_different_images_of_the_same_name_are_rejected(make, other):
    """Even if they have the same size."""
    with pytest.raises(UserError, match=rf"{other} and .*beach/a.bmp have the same path inside their classes.*Rename"):
        open_sources(make({"beach/a.bmp": 0, other: 1}))


def test_copy_beside_the_class_directories_is_the_same_image(make, tmp_path):
    source = open_sources(make({"train/a.png": 0, "train/sea/a.png": 0}))["train"]
    assert labels_by_image(source, tmp_path) == {"train/sea/a.png": {"sea"}}


def test_directories_that_do_not_look_like_classes_are_rejected(make):
    folds = {f"fold{fold}/{name}/{fold}.png": fold for fold in (1, 2) for name in ("beach", "sea")}
    with pytest.raises(UserError, match="does not look like a class"):
        open_sources(make(folds))


@pytest.mark.parametrize("images", [{}, {"train/a.png": 0}])
def test_folder_without_labels_is_rejected(make, images):
    with pytest.raises(UserError, match="has no images in class directories"):
        open_sources(make(images))


def test_missing_folder_is_rejected(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        open_sources(f"multi_label_folder:{tmp_path}/none")


def test_name_is_a_path_on_this_machine():
    assert is_on_this_machine("multi_label_folder:/a/b")
    assert canonical_name("multi_label_folder:/a/../b") == "multi_label_folder:/b"
