import shutil

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import open_sources
from resnet_jax.errors import UserError


def write_images(directory, count):
    directory.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(directory / f"{number}.png")


@pytest.fixture
def root(tmp_path):
    """Two clients, of which the second has a class of its own, and a test split."""
    for name, count in {"north/cat": 3, "north/dog": 2, "south/cat": 1, "south/fox": 4, "test/cat": 2}.items():
        write_images(tmp_path / "clinics" / name, count)
    return tmp_path / "clinics"


def test_images_know_their_client_and_their_class(root):
    sources = open_sources(f"clients:{root}")
    train, test = sources["train"], sources["test"]
    assert train.classes == test.classes == ("cat", "dog", "fox")
    assert (len(train), len(test)) == (10, 2)
    assert train.clients == ("north", "south")
    for index in range(len(train)):
        client, class_name = train.name(index).split("/")[-3:-1]
        assert (train.clients[train.directories[index]], train.classes[train.labels[index]]) == (client, class_name)
    assert np.bincount(train.directories).tolist() == [5, 5]


def test_client_without_images_is_left_out_with_a_warning(root, caplog):
    (root / "west" / "cat").mkdir(parents=True)
    assert open_sources(f"clients:{root}")["train"].clients == ("north", "south")
    assert "The client west has no images in class directories, so it takes no part." in caplog.text


def test_split_without_images_is_rejected(root):
    (root / "val" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"the folder {root}/val has no images in class directories. Add images, or"):
        open_sources(f"clients:{root}")


def test_other_layouts_are_rejected(root):
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        write_images(root / "west" / name, 1)
    with pytest.raises(UserError, match="does not look like a class"):
        open_sources(f"clients:{root}")
    shutil.rmtree(root / "west")
    write_images(root / "train" / "north" / "cat", 1)
    with pytest.raises(UserError, match=rf"has a directory train, .* use clients:{root}/train"):
        open_sources(f"clients:{root}")


def test_images_outside_of_class_directories_are_listed(root):
    Image.new("RGB", (8, 8)).save(root / "north" / "loose.png")
    assert open_sources(f"clients:{root}")["train"].ignored == [f"{root}/north/loose.png"]


def test_folder_without_images_of_clients_is_rejected(root):
    for client in ("north", "south"):
        shutil.rmtree(root / client)
    with pytest.raises(UserError, match="no client in the folder"):
        open_sources(f"clients:{root}")
    with pytest.raises(UserError, match="there is no folder"):
        open_sources(f"clients:{root}/elsewhere")
