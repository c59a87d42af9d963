import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import canonical_name, open_sources
from resnet_jax.errors import UserError


def test_all_images_below_the_folder_are_examples_of_one_class(tmp_path):
    for path in ("a.png", "x/b.png", "x/y/c.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / path)
    (tmp_path / "notes.txt").write_text("no image")
    sources = open_sources(f"images:{tmp_path}")
    assert list(sources) == ["train"]
    source = sources["train"]
    assert {source.name(index) for index in range(len(source))} == {
        str(tmp_path / path) for path in ("a.png", "x/b.png", "x/y/c.png")
    }
    assert source.classes == ("unlabeled",)
    assert source[0][0].startswith(b"\x89PNG")


def test_folder_without_images_is_rejected(tmp_path):
    with pytest.raises(UserError, match="has no images"):
        open_sources(f"images:{tmp_path}")


def test_missing_folder_is_rejected(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        open_sources(f"images:{tmp_path}/none")


def test_path_is_made_absolute():
    assert canonical_name("images:/a/../b") == "images:/b"
