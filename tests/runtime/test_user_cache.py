import multiprocessing
import os
import pathlib

import pytest

from resnet_jax.runtime import user_cache


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_directory_follows_xdg_cache_home_and_defaults_to_home(home, monkeypatch):
    assert user_cache.directory("decoded") == home / "cache" / "resnet_jax" / "decoded"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(home))
    assert user_cache.directory("decoded") == home / ".cache" / "resnet_jax" / "decoded"
    assert (home / ".cache" / "resnet_jax" / "decoded").is_dir()


def test_directory_is_none_if_it_is_not_writable(home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    assert user_cache.directory("decoded") is None


def test_write_deletes_the_least_recently_used_files():
    directory = user_cache.directory("decoded")
    for number, name in enumerate(("b", "a", "c")):
        user_cache.write(directory / name, lambda file: file.write(b"1234"), max_bytes=12)
        os.utime(directory / name, (number, number))
    os.utime(directory / "b")  # It is now the most recently used file.
    user_cache.write(directory / "d", lambda file: file.write(b"12"), max_bytes=12)
    assert sorted(path.name for path in directory.iterdir()) == ["b", "c", "d"]


def test_failed_write_leaves_no_file():
    directory = user_cache.directory("decoded")

    def write(file):
        file.write(b"half")
        raise OSError("no space left on device")

    user_cache.write(directory / "a", write, max_bytes=100)
    assert list(directory.iterdir()) == []


def write_and_read(path: pathlib.Path, byte: int) -> None:
    for _ in range(50):
        user_cache.write(path, lambda file: file.write(bytes([byte]) * 100_000), max_bytes=10**6)
        content = path.read_bytes()
        assert len(content) == 100_000
        assert len(set(content)) == 1


def test_processes_can_write_the_same_file_at_the_same_time():
    path = user_cache.directory("decoded") / "a"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=write_and_read, args=(path, byte)) for byte in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert list(path.parent.iterdir()) == [path]
