import multiprocessing
import os
import pathlib

import pytest

from resnet_jax.runtime import user_cache


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_it_lies_where_the_user_says_else_in_his_home(home, monkeypatch):
    assert user_cache.directory("decoded") == home / "cache" / "resnet_jax" / "decoded"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(home))
    assert user_cache.directory("decoded") == home / ".cache" / "resnet_jax" / "decoded"
    assert (home / ".cache" / "resnet_jax" / "decoded").is_dir()


def test_without_a_place_to_write_there_is_none(home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    assert user_cache.directory("decoded") is None


def test_what_has_been_unused_longest_makes_room():
    place = user_cache.directory("decoded")
    for number, name in enumerate(("b", "a", "c")):
        user_cache.keep(place / name, lambda file: file.write(b"1234"), limit=12)
        os.utime(place / name, (number, number))
    os.utime(place / "b")  # It has been used just now.
    user_cache.keep(place / "d", lambda file: file.write(b"12"), limit=12)
    assert sorted(path.name for path in place.iterdir()) == ["b", "c", "d"]


def test_a_file_that_cannot_be_written_whole_is_not_there():
    place = user_cache.directory("decoded")

    def write(file):
        file.write(b"half")
        raise OSError("no space left on device")

    user_cache.keep(place / "a", write, limit=100)
    assert list(place.iterdir()) == []


def write_and_read(path: pathlib.Path, byte: int) -> None:
    for _ in range(50):
        user_cache.keep(path, lambda file: file.write(bytes([byte]) * 100_000), limit=10**6)
        content = path.read_bytes()
        assert len(content) == 100_000
        assert len(set(content)) == 1


def test_processes_may_write_the_same_file_at_the_same_time():
    path = user_cache.directory("decoded") / "a"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=write_and_read, args=(path, byte)) for byte in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert list(path.parent.iterdir()) == [path]
