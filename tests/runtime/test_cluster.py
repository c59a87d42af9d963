import contextlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.runtime import cluster, parallel
from tests.conftest import ROOT


def test_alone_a_wish_is_granted_at_once(mesh):
    agreement = cluster.Agreement(mesh)
    assert [agreement(wish) for wish in (0, 15, 0, 2)] == [0, 15, 0, 2]


def test_of_several_processes_the_answer_is_that_of_calls_before_and_a_wish_is_granted_once(mesh, monkeypatch):
    """As if the eight devices belonged to this process and another, which wishes nothing."""
    monkeypatch.setattr(cluster.jax, "process_count", lambda: 2)
    agreement = cluster.Agreement(mesh)
    assert parallel.CALLS_AHEAD == 4
    wishes, granted = (0, 1, 2, 2, 2, 2, *5 * [0]), (*5 * [0], 1, *5 * [0])
    assert tuple(agreement(wish) for wish in wishes) == granted


def test_the_most_urgent_wish_is_granted(mesh, monkeypatch):
    """As if each device belonged to a process of its own, the last of which wishes most."""
    place_rows = parallel.place_rows
    monkeypatch.setattr(parallel, "place_rows", lambda rows, *where: place_rows(rows + np.arange(8), *where))
    monkeypatch.setattr(cluster.jax, "process_count", lambda: 8)
    agreement = cluster.Agreement(mesh)
    assert [agreement(3) for _ in range(5)] == [0, 0, 0, 0, 10]


@pytest.fixture
def initialized(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)


def test_loss_of_another_process_is_told_from_other_errors(initialized):
    gloo = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:5279")
    assert cluster.lost_another(gloo)
    assert not cluster.lost_another(ValueError("shapes do not match"))
    try:
        raise UserError("cannot save a checkpoint") from gloo
    except UserError as error:
        assert cluster.lost_another(error)


def test_a_single_process_loses_no_other():
    assert not cluster.lost_another(ValueError("Gloo"))


def test_a_failed_process_of_several_ends_without_waiting_for_the_others(initialized, monkeypatch):
    codes = []
    monkeypatch.setattr(cluster.os, "_exit", codes.append)
    cluster.leave(75)
    assert codes == [75]


def test_a_single_process_ends_as_usual(monkeypatch):
    monkeypatch.setattr(cluster.os, "_exit", pytest.fail)
    assert cluster.leave(2) == 2


def test_a_port_that_is_taken_is_refused():
    """JAX would end with a segmentation fault."""
    with contextlib.closing(socket.create_server(("", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=r"cannot listen at port .*choose another for --coordinator"):
            cluster.start(address, 2, 0)


def test_a_coordinator_that_does_not_answer_is_named(monkeypatch):
    """JAX would abort the process, with a stack trace."""
    monkeypatch.setattr(cluster, "PATIENCE", 0)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"nobody answers at 127.0.0.1:1 .*start the process with --process_id=0 there"):
        cluster.start("127.0.0.1:1", 2, 1)


def test_processes_that_wait_in_vain_for_another_say_so():
    """JAX would abort them, with a stack trace."""
    with contextlib.closing(socket.create_server(("", 0))) as server:
        port = server.getsockname()[1]
    alone = f"from resnet_jax.runtime import cluster; cluster.PATIENCE = 3; cluster.start('127.0.0.1:{port}', 2, 0)"
    ended = subprocess.run([sys.executable, "-c", alone], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "error: not all of the 2 processes have come within" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("address", ["host", "host:", ":80", "host:http"])
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(UserError, match="is not of the form HOST:PORT"):
        cluster.start(address, 2, 1)
