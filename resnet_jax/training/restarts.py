"""Automatic restarts: if a process of a run dies, the run goes on from its last checkpoint, with those that are left.

With `--restarts`, each process of a run is a supervisor, and a child process trains. When a child dies, the others end
too (see `cluster`). Then the supervisors meet in a folder of the run directory: each writes the address at which it
could coordinate, and the first of them writes the list of those present. Each starts a child again, as a process of a
run that may have fewer of them. A batch is a function of the step alone, so the run sees the same batches.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from etils import epath

from resnet_jax import files
from resnet_jax.errors import ExitCode, UserError
from resnet_jax.runtime import child_process
from resnet_jax.runtime.cluster import HEARTBEAT_TIMEOUT
from resnet_jax.terminal import print_if_possible
from resnet_jax.training.interruption import deferred_signals

FOLDER = "restarts"  # in the run directory; removed when the run is done
MEETING_SECONDS = HEARTBEAT_TIMEOUT + 30  # A process that has not reported by then counts as dead.
POLL_SECONDS = 0.2
FINAL = (ExitCode.DONE, ExitCode.USER_ERROR)  # Starting again would not change these.


class Team(NamedTuple):
    """The processes of a run, at one start.

    Attributes:
      members: their numbers, which they keep when others die, in ascending order.
      coordinator: HOST:PORT of the first one.
    """

    members: tuple[int, ...]
    coordinator: str

    def flags(self, me: int) -> list[str]:
        """Return the flags for the child of a member."""
        return [
            f"--coordinator={self.coordinator}",
            f"--num_processes={len(self.members)}",
            f"--process_id={self.members.index(me)}",
        ]


def supervise(arguments: Sequence[str], workdir: epath.Path, restarts: int, team: Team | None, me: int) -> int:
    """Train in a child process, and start it again if it or another process of the run dies.

    SIGINT, SIGTERM and SIGHUP are passed on to the child. It saves and ends, and so does this process, while the others
    go on without it.

    Args:
      arguments: the command and its flags, without those of `team`.
      workdir: the run directory.
      restarts: how often to start again.
      team: the processes; None for a single process, or if JAX detects them. In the latter case, all of them have to
        start again.
      me: the number of this process.

    Returns:
      The exit code of the last child.

    Raises:
      UserError: if the others have gone on without this process.
    """
    folder = workdir / FOLDER
    if team is not None and me == 0:
        folder.rmtree(missing_ok=True)  # of an earlier job
    with deferred_signals() as received_signal:
        for attempt in range(1, restarts + 2):
            child = child_process.start([*arguments, *(team.flags(me) if team else [])], {})
            code = _wait(child, received_signal)
            if code in FINAL or received_signal() is not None or attempt > restarts:
                break
            print_if_possible(
                f"The process ended early (exit code {code}). Restart {attempt} of {restarts}.", sys.stderr
            )
            if team is not None:
                team = meet(folder / str(attempt), team, me)
    if team is not None and me == team.members[0] and code == ExitCode.DONE:
        folder.rmtree(missing_ok=True)
    return code if code >= 0 else ExitCode.RESUMABLE  # A negative code is the number of a signal.


def meet(folder: epath.Path, team: Team, me: int, seconds: float = MEETING_SECONDS) -> Team:
    """Wait for the other members of a team, and return the team of those who come.

    Args:
      folder: a folder that all members share, empty at first, and another one for each meeting.
      team: the team so far.
      me: the number of this process.
      seconds: how long to wait for members that may be dead.

    Raises:
      UserError: if this process comes too late.
    """
    address = f"{_own_host(team.coordinator)}:{_free_port()}"
    files.write(folder / f"{me}.json", json.dumps({"address": address}))
    deadline = time.monotonic() + seconds
    decision = folder / "team.json"
    while not decision.exists():
        present = tuple(member for member in team.members if (folder / f"{member}.json").exists())
        if present == team.members or time.monotonic() > deadline:
            if me == present[0] and _is_first(folder / "deciding"):
                files.write(decision, json.dumps({"members": present, "coordinator": address}))
                break
            if time.monotonic() > deadline + seconds:
                raise UserError(f"process {present[0]} reported in {folder} and then died. Start the run again.")
        time.sleep(POLL_SECONDS)
    decided = json.loads(decision.read_text())
    met = Team(tuple(decided["members"]), decided["coordinator"])
    if me not in met.members:
        raise UserError(
            f"the other processes of the run have gone on without this one, because it did not report within "
            f"{seconds:.0f} seconds. To use it again, stop the run and start all processes."
        )
    return met


def _wait(child: subprocess.Popen, received_signal: Callable[[], signal.Signals | None]) -> int:
    """Wait for the end of a child, pass on the signal that arrives in the meantime, and return the exit code."""
    while child.poll() is None and received_signal() is None:
        time.sleep(POLL_SECONDS)
    if (signum := received_signal()) is not None:
        child.send_signal(signum)
    return child.wait()


def _is_first(claim: epath.Path) -> bool:
    """Return whether no other process has called this with the same path."""
    try:
        claim.mkdir()
        return True
    except FileExistsError:
        return False


def _own_host(coordinator: str) -> str:
    """Return the address of this machine from which it reaches the coordinator's."""
    host, _, port = coordinator.rpartition(":")
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # Nothing is sent: the system only chooses the interface.
        own = probe.getsockname()[0]
    return f"[{own}]" if ":" in own else own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
