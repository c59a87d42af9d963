import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.subset import Subset
from resnet_jax.runtime import user_cache
from resnet_jax.terminal import Reporter


class Files:
    """Image files with a fingerprint. `read` counts how many files were read."""

    classes, channels = ("cat", "dog"), 3

    def __init__(self, size=10, fingerprint="files of today", damaged=()):
        self._size, self.fingerprint, self._damaged, self.read = size, fingerprint, damaged, 0

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        self.read += 1
        if index in self._damaged:
            return b"no image", 0
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(file, "PNG")
        return file.getvalue(), index % 2


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "resnet_jax" / "decoded"


def read(source, split="train"):
    return read_examples(Subset.from_split({"train": source}, split), Reporter(active=False, max_unreadable=10))


def assert_equal(first_examples, second_examples):
    for name in ("images", "labels", "subset_positions"):
        first, second = getattr(first_examples, name), getattr(second_examples, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


def test_cached_examples_are_not_decoded_again():
    first, second = Files(), Files()
    expected = read(first)
    assert_equal(read(second), expected)
    assert (first.read, second.read) == (10, 0)
    expected.images[:] = 0  # The cache does not change with the returned array.
    assert read(Files()).images[5, 0, 0, 0] == 5


@pytest.mark.parametrize(
    ("source", "split"),
    [(Files(fingerprint="files of tomorrow"), "train"), (Files(), "train[:5]"), (Files(), "train[5:]")],
)
def test_changed_files_and_other_examples_are_decoded(source, split):
    read(Files())
    read(source, split)
    assert source.read == (10 if split == "train" else 5)


def test_grayscale_and_color_have_separate_entries():
    read(Files())
    source = Files()
    source.channels = 1
    assert read(source).images.shape == (10, 4, 4, 1)


def test_source_without_fingerprint_is_not_cached(cache):
    for _ in range(2):
        source = Files(fingerprint=None)
        read(source)
        assert source.read == 10
    assert list(cache.parent.glob("**/*.npz")) == []


def test_dataset_with_unreadable_images_is_not_cached():
    for _ in range(2):
        source = Files(damaged=(3,))
        assert read(source).subset_positions.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert source.read == 10


@pytest.mark.parametrize("position", [0, 0.3, 0.6, 0.99, None])
def test_damaged_entry_is_written_again(cache, position):
    expected = read(Files(100))
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    if position is None:
        del content[len(content) // 2 :]
    else:
        content[int(position * len(content))] ^= 1
    path.write_bytes(content)
    second, third = Files(100), Files(100)
    assert_equal(read(second), expected)
    assert_equal(read(third), expected)
    assert third.read == 0


def test_examples_are_decoded_each_time_without_a_cache_directory(monkeypatch):
    monkeypatch.setattr(user_cache, "directory", lambda name: None)
    for _ in range(2):
        source = Files()
        assert len(read(source)) == 10
        assert source.read == 10
