import os
import socket

import pytest

from resnet_jax.errors import UserError
from resnet_jax.workdir.lock import check_shared, locked
from resnet_jax.workdir.workdir import WorkDir


def test_locked_directory_is_refused_with_the_name_of_its_holder(tmp_path):
    sentence = f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}"
    with locked(tmp_path):
        for _ in range(2):  # A failed attempt must not erase the name.
            with pytest.raises(UserError, match=sentence), locked(tmp_path):
                pass


def test_lock_is_released_even_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        1 / 0  # noqa: B018  Any error will do.
    with locked(tmp_path):
        pass


def test_file_system_without_locks_is_used_unlocked(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_single_process_writes_no_token(tmp_path):
    check_shared(WorkDir(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
