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


def test_request_of_a_single_process_is_granted_at_once(mesh):
    agreement = cluster.Agreement(mesh)
    assert [agreement(request) for request in (0, 15, 0, 2)] == [0, 15, 0, 2]


def test_request_of_several_processes_is_granted_once_a_few_calls_later(mesh, monkeypatch):
    """Pretend that the eight devices belong to this process and another one, which requests nothing."""
    monkeypatch.setattr(cluster.jax, "process_count", lambda: 2)
    agreement = cluster.Agreement(mesh)
    assert parallel.CALLS_AHEAD == 4
    requests = (0, 1, 2, 2, 2, 2, *5 * [0])
    granted = (*5 * [0], 1, *5 * [0])
    assert tuple(agreement(request) for request in requests) == granted


def test_most_urgent_request_is_granted(mesh, monkeypatch):
    """Pretend that each device belongs to a separate process, and that the last process has the most urgent request."""
    place_rows = parallel.place_rows
    monkeypatch.setattr(parallel, "place_rows", lambda rows, *arguments: place_rows(rows + np.arange(8), *arguments))
    monkeypatch.setattr(cluster.jax, "process_count", lambda: 8)
    agreement = cluster.Agreement(mesh)
    assert [agreement(3) for _ in range(5)] == [0, 0, 0, 0, 10]


@pytest.fixture
def initialized(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)


def test_process_loss_is_distinguished_from_other_errors(initialized):
    gloo = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:5279")
    assert cluster.is_process_loss(gloo)
    assert not cluster.is_process_loss(ValueError("shapes do not match"))
    try:
        raise UserError("cannot save a checkpoint") from gloo
    except UserError as error:
        assert cluster.is_process_loss(error)


def test_error_of_a_single_process_is_no_process_loss():
    assert not cluster.is_process_loss(ValueError("Gloo"))


def test_failed_process_ends_without_waiting_for_others(initialized, monkeypatch):
    codes = []
    monkeypatch.setattr(cluster.os, "_exit", codes.append)
    cluster.leave(75)
    assert codes == [75]


def test_failed_single_process_returns_its_exit_code(monkeypatch):
    monkeypatch.setattr(cluster.os, "_exit", pytest.fail)
    assert cluster.leave(2) == 2


def test_occupied_port_is_refused():
    """Without this check, JAX would crash with a segmentation fault."""
    with contextlib.closing(socket.create_server(("", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=r"cannot listen at port .*Choose another port for --coordinator"):
            cluster.start(address, 2, 0)


def test_unreachable_coordinator_is_reported(monkeypatch):
    """Without this check, JAX would abort the process with a stack trace."""
    monkeypatch.setattr(cluster, "START_TIMEOUT", 0)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    with pytest.raises(
        UserError, match=r"no process answers at 127.0.0.1:1 .*Start the process with --process_id=0 there"
    ):
        cluster.start("127.0.0.1:1", 2, 1)


def test_missing_process_is_reported():
    """Without this check, JAX would abort the waiting processes with a stack trace."""
    with contextlib.closing(socket.create_server(("", 0))) as server:
        port = server.getsockname()[1]
    command = (
        f"from resnet_jax.runtime import cluster; cluster.START_TIMEOUT = 1; cluster.start('127.0.0.1:{port}', 2, 0)"
    )
    ended = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "error: not all of the 2 processes have started within" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("address", ["host", "host:", ":80", "host:http"])
def test_malformed_coordinator_is_refused(address):
    with pytest.raises(UserError, match="is not of the form HOST:PORT"):
        cluster.start(address, 2, 1)
