"""Automatic restarts: if a process of a run dies, the others continue the run from its last checkpoint.

With `--restarts`, each process of a run is a supervisor, and a child process trains. When a child dies, the other
children end too (see `cluster`). Each supervisor then writes a report into a folder of the run directory. It holds an
address at which the supervisor's child could coordinate, or says that the supervisor has left or that the run has
ended. The supervisor with the lowest index among those with an address chooses the members of the next attempt. A batch
is a function of the step alone, so a smaller team sees the same batches.
"""

import contextlib
import functools
import json
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from resnet_jax import files
from resnet_jax.errors import ExitCode, UserError
from resnet_jax.runtime import child_process
from resnet_jax.runtime.cluster import HEARTBEAT_TIMEOUT
from resnet_jax.terminal import print_if_possible
from resnet_jax.training.interruption import deferred_signals

FOLDER = "restarts"  # in the run directory
MEETING_SECONDS = HEARTBEAT_TIMEOUT + 30  # A process that has not reported by then counts as dead.
POLL_SECONDS = 0.2  # in a meeting
TRAINING_POLL_SECONDS = 1.0  # while the child trains

ReceivedSignal = Callable[[], signal.Signals | None]


class Team(NamedTuple):
    """The processes of a run, in one attempt.

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


class RunEnded(Exception):
    """Another process has reported that the run has ended.

    Attributes:
      exit_code: that of its child.
    """

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


def supervise(arguments: Sequence[str], workdir: epath.Path, restarts: int, team: Team | None, me: int) -> int:
    """Train in a child process, and start it again if it or another process of the run dies.

    SIGINT, SIGTERM and SIGHUP are passed on to the child. It saves and ends, and so does this process. The others
    continue without it.

    Args:
      arguments: the command and its flags, without those of `team`.
      workdir: the run directory.
      restarts: the maximum number of restarts.
      team: the processes; None for a single process, or if JAX detects them. In the latter case, all of them have to
        start again.
      me: the number of this process.

    Returns:
      The exit code of the last child; that of the run if another process has reported its end; or that of an
      interrupted run if a signal killed the child or arrived between two attempts.

    Raises:
      UserError: if the others have continued without this process.
    """
    meetings = None if team is None else Meetings(workdir / FOLDER, team, me)
    with deferred_signals() as received_signal:
        attempt = 0
        while True:
            attempt += 1
            restart_requested = functools.partial(meetings.has_reports, attempt) if meetings else _never
            code = _train(arguments, team, me, received_signal, restart_requested)
            # A user error of a later attempt may come from the restart: a port in use, a lock of a dead machine.
            is_final = code == ExitCode.DONE or (code == ExitCode.USER_ERROR and attempt == 1)
            if is_final or received_signal() is not None or attempt > restarts:
                if meetings is not None:
                    with contextlib.suppress(UserError):  # The error of the child says more.
                        meetings.report(attempt, {"ended": code} if received_signal() is None else {"left": True})
                return code
            print_if_possible(
                f"The process ended early (exit code {code}). Restart {attempt} of {restarts}.", sys.stderr
            )
            if meetings is not None:
                try:
                    team = meetings.hold(attempt, received_signal)
                except RunEnded as ended:
                    return ended.exit_code
                if team is None:
                    return ExitCode.INTERRUPTED if received_signal() == signal.SIGINT else ExitCode.RESUMABLE


def _train(
    arguments: Sequence[str],
    team: Team | None,
    me: int,
    received_signal: ReceivedSignal,
    restart_requested: Callable[[], bool],
) -> int:
    """Run a child to its end, and return its exit code. Stop it early if `restart_requested` returns True."""
    child = child_process.start([*arguments, *(team.flags(me) if team else [])], {})
    try:
        while child.poll() is None and received_signal() is None and not restart_requested():
            time.sleep(TRAINING_POLL_SECONDS)
        if child.poll() is None:
            child.send_signal(received_signal() or signal.SIGTERM)
        code = child.wait()
    except KeyboardInterrupt:  # the second Ctrl-C
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    if code == -signal.SIGINT:
        return ExitCode.INTERRUPTED
    return code if code >= 0 else ExitCode.RESUMABLE


def _never() -> bool:
    return False


class Meetings:
    """The meetings of the supervisors of a job: one before each restart, in a folder that all of them share.

    Reports of an earlier job may remain in the folder, and process 0 may start last. So each process enters the job by
    writing a random token into the folder, and process 0 lists the tokens that it has seen in job.json.

    Args:
      folder: holds a folder for each job.
      team: all processes of the job.
      me: the number of this process.
      seconds: how long to wait for members that may be dead.
    """

    def __init__(self, folder: epath.Path, team: Team, me: int, seconds: float = MEETING_SECONDS):
        self._folder = folder
        self._team = team
        self._me = me
        self._seconds = seconds
        self._host = _own_host(team.coordinator, me)
        self._token = secrets.token_hex(8)
        self._job = self._token if me == 0 else None  # its name, once this process has entered
        self._entered: dict[str, str] = {}  # the tokens of the others that have entered, in process 0
        if me == 0:
            _remove_jobs(folder)
            self._write_job()
        self.enter()

    def _write_job(self) -> None:
        files.write(self._folder / "job.json", json.dumps({"job": self._job, "entered": self._entered}))

    def enter(self) -> None:
        """Enter the job, or let others enter if this is process 0. All processes call this repeatedly."""
        if self._me == 0:
            paths = {str(member): self._folder / f"enter{member}" for member in self._team.members if member != 0}
            entered = {member: path.read_text(encoding="utf-8") for member, path in paths.items() if path.exists()}
            if entered != self._entered:
                self._entered = entered
                self._write_job()
        elif self._job is None:
            announcement = self._folder / f"enter{self._me}"
            if not announcement.exists() or announcement.read_text(encoding="utf-8") != self._token:
                files.write(announcement, self._token)
            path = self._folder / "job.json"
            job = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if job.get("entered", {}).get(str(self._me)) == self._token:
                self._job = job["job"]

    def _path(self, attempt: int, name: str) -> epath.Path:
        """Return the path of a file of a meeting; raises `UserError` if this process has not entered the job."""
        if self._job is None:
            raise UserError("process 0 of the run has not started with --restarts. Give the flag to all.")
        return self._folder / self._job / str(attempt) / name

    def report(self, attempt: int, report: Mapping[str, object]) -> None:
        """Write a report of this process for a meeting; raises `UserError` if this process has not entered the job."""
        files.write(self._path(attempt, f"{self._me}.json"), json.dumps(report))

    def has_reports(self, attempt: int) -> bool:
        """Return whether another process has reported for a meeting."""
        self.enter()
        return self._job is not None and bool(self._reports(attempt))

    def _reports(self, attempt: int) -> dict[int, dict]:
        paths = {member: self._path(attempt, f"{member}.json") for member in self._team.members}
        return {member: json.loads(path.read_text(encoding="utf-8")) for member, path in paths.items() if path.exists()}

    def hold(self, attempt: int, received_signal: ReceivedSignal) -> Team | None:
        """Wait for the other members, and return the team of those who take part in the next attempt.

        Args:
          attempt: the number of the attempt that has ended.
          received_signal: returns the signal that has asked this process to stop, or None.

        Returns:
          None if a signal has arrived.

        Raises:
          RunEnded: if the run has ended.
          UserError: if this process reports too late, or cannot enter the job.
        """
        deadline = time.monotonic() + self._seconds
        while self._job is None and time.monotonic() < deadline:
            if received_signal() is not None:
                return None
            self.enter()
            time.sleep(POLL_SECONDS)
        address = f"{self._host}:{_free_port()}"
        self.report(attempt, {"address": address})
        decision = self._path(attempt, "team.json")
        while not decision.exists():
            self.enter()
            if received_signal() is not None:
                self.report(attempt, {"left": True})
                return None
            reports = self._reports(attempt)
            for report in reports.values():
                if "ended" in report:
                    raise RunEnded(int(report["ended"]))
            present = tuple(member for member, report in reports.items() if "address" in report)
            if self._me not in present:
                raise UserError(f"{self._folder} was removed: process 0 was started again. Start all processes again.")
            is_complete = len(reports) == len(self._team.members)
            if (is_complete or time.monotonic() > deadline) and self._me == present[0] and _is_first(decision.parent):
                files.write(decision, json.dumps({"members": present, "coordinator": address}))
                break
            if time.monotonic() > deadline + 2 * self._seconds:
                raise UserError(
                    f"process {present[0]} reported in {decision.parent} and then died. Start the run again."
                )
            time.sleep(POLL_SECONDS)
        decided = json.loads(decision.read_text(encoding="utf-8"))
        self._team = Team(tuple(decided["members"]), decided["coordinator"])
        if self._me not in self._team.members:
            raise UserError(
                f"the other processes of the run have continued without this one, because it did not report within "
                f"{self._seconds:.0f} seconds. To use it again, stop the run and start all processes."
            )
        return self._team


def _remove_jobs(folder: epath.Path) -> None:
    """Remove the meetings of earlier jobs. Other processes may already be writing their tokens beside them."""
    for job in folder.iterdir() if folder.exists() else ():
        if job.is_dir():
            job.rmtree()


def _is_first(folder: epath.Path) -> bool:
    """Return whether no other process has called this with the same folder."""
    try:
        (folder / "deciding").mkdir()
        return True
    except FileExistsError:
        return False


def _own_host(coordinator: str, me: int) -> str:
    """Return the address of this machine for the others: that of process 0 is the one that they know already."""
    host, _, port = coordinator.rpartition(":")
    if me == 0:
        return host
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # Nothing is sent: the system only chooses the interface.
        own = probe.getsockname()[0]
    if own.startswith("127.") or own == "::1":  # This is the machine of process 0.
        return host
    return f"[{own}]" if ":" in own else own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
