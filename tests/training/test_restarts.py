import contextlib
import json
import signal
import threading
import time

import pytest
from etils import epath

from resnet_jax.errors import UserError
from resnet_jax.training import restarts
from resnet_jax.training.restarts import Meetings, RunEnded, Team

TEAM = Team((0, 1, 2), "127.0.0.1:4321")


def no_signal():
    return None


def all_meetings(folder, seconds=2.0, order=TEAM.members):
    """Return the meetings of all members, who start in this order and have entered the job."""
    meetings = {me: Meetings(epath.Path(folder), TEAM, me, seconds) for me in order}
    for me in (1, 2, 0, 1, 2):
        meetings[me].enter()
    return meetings


def hold_together(meetings, delays, number=1):
    """Let members hold a meeting after their delays. Return the result of each: a team, None, or an error."""
    results = {}

    def hold(member, delay):
        time.sleep(delay)
        try:
            results[member] = meetings[member].hold(number, no_signal)
        except (UserError, RunEnded) as error:
            results[member] = error

    threads = [threading.Thread(target=hold, args=arguments) for arguments in delays.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_members_that_all_report_continue_together_with_a_new_coordinator(tmp_path):
    results = hold_together(all_meetings(tmp_path, seconds=60), {0: 0.3, 1: 0.0, 2: 0.1})
    assert results[0] == results[1] == results[2]
    assert results[0].members == (0, 1, 2)
    host, _, port = results[0].coordinator.rpartition(":")
    assert host == "127.0.0.1" and int(port) > 0
    assert results[2].flags(2) == [f"--coordinator={results[0].coordinator}", "--num_processes=3", "--process_id=2"]


@pytest.mark.parametrize("dead", [0, 1])
def test_others_continue_without_a_dead_member(tmp_path, dead):
    """The first of those that are left becomes the coordinator, and they are numbered anew."""
    left = tuple(member for member in TEAM.members if member != dead)
    meetings = all_meetings(tmp_path)
    results = hold_together(meetings, dict.fromkeys(left, 0.0))
    assert results[left[0]] == results[left[1]]
    assert results[2].members == left
    assert "--process_id=1" in results[2].flags(2)
    again = hold_together(meetings, {left[0]: 0.0, left[1]: 0.2}, number=2)  # Nobody waits for the dead one.
    assert again[2].members == left


def test_others_do_not_wait_for_a_member_that_has_left(tmp_path):
    meetings = all_meetings(tmp_path, seconds=60)
    meetings[1].report(1, {"left": True})
    assert meetings[0].has_reports(1) and not meetings[0].has_reports(2)
    results = hold_together(meetings, {0: 0.0, 2: 0.1})
    assert results[0].members == results[2].members == (0, 2)


def test_others_end_when_a_member_has_ended(tmp_path):
    meetings = all_meetings(tmp_path, seconds=60)
    meetings[2].report(1, {"ended": 2})
    results = hold_together(meetings, {0: 0.0, 1: 0.1})
    assert [results[member].exit_code for member in (0, 1)] == [2, 2]


def test_member_that_reports_too_late_raises_an_error(tmp_path):
    meetings = all_meetings(tmp_path, seconds=1.0)
    results = hold_together(meetings, {0: 0.0, 1: 0.0})
    assert results[0].members == results[1].members == (0, 1)
    with pytest.raises(UserError, match="have continued without this one"):
        meetings[2].hold(1, no_signal)


def test_signal_during_a_meeting_is_obeyed_and_reported(tmp_path):
    meetings = all_meetings(tmp_path, seconds=60)
    assert meetings[1].hold(1, lambda: signal.SIGTERM) is None
    results = hold_together(meetings, {0: 0.0, 2: 0.0})
    assert results[0].members == (0, 2)


def test_signal_is_obeyed_while_process_0_is_awaited(tmp_path):
    meetings = Meetings(epath.Path(tmp_path), TEAM, 1, seconds=60)
    assert meetings.hold(1, lambda: signal.SIGTERM) is None


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_signal_between_two_attempts_sets_the_exit_code(tmp_path, monkeypatch, signum, expected):
    """It arrives after the child has ended, while the supervisor waits for the others."""
    received = iter([None, None])

    @contextlib.contextmanager
    def receive_later():
        yield lambda: next(received, signum)

    monkeypatch.setattr(restarts, "deferred_signals", receive_later)
    monkeypatch.setattr(restarts.child_process, "start", lambda arguments, environment: FakeChild(75))
    assert restarts.supervise(["train"], epath.Path(tmp_path), 3, TEAM, 0) == expected


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_new_job_does_not_see_the_meetings_of_an_earlier_one(tmp_path, order):
    """Whoever starts first: process 0 may find the earlier job's folder, or another process may."""
    hold_together(all_meetings(tmp_path), {0: 0.0, 1: 0.0})
    first = Meetings(epath.Path(tmp_path), TEAM, order[0], 1.0)
    assert not first.has_reports(1)
    meetings = all_meetings(tmp_path, seconds=60, order=order)
    assert not any(meeting.has_reports(1) for meeting in meetings.values())
    results = hold_together(meetings, {0: 0.0, 1: 0.0, 2: 0.2})
    assert results[2].members == (0, 1, 2)


def test_process_that_cannot_enter_the_job_names_the_flag(tmp_path):
    """Process 0 of an earlier job had the flag; that of this one has not."""
    all_meetings(tmp_path)
    with pytest.raises(UserError, match="process 0 of the run has not started with --restarts"):
        Meetings(epath.Path(tmp_path), TEAM, 1, seconds=0.5).hold(1, no_signal)


@pytest.mark.parametrize(
    ("coordinator", "me", "expected"),
    [("localhost:80", 0, "localhost"), ("localhost:80", 2, "localhost"), ("127.0.0.1:80", 1, "127.0.0.1")],
)
def test_address_on_the_machine_of_process_0_is_the_one_that_others_know(coordinator, me, expected):
    assert restarts._own_host(coordinator, me) == expected


class FakeChild:
    """A child process that has ended with an exit code."""

    def __init__(self, code):
        self._code = code

    def poll(self):
        return self._code

    wait = poll


@pytest.mark.parametrize(
    ("codes", "restarts_allowed", "expected"),
    [
        ([0], 2, 0),
        ([2], 2, 2),  # A user error at the first start would be the same again.
        ([-9, 75, 0], 2, 0),
        ([-9, 2, 0], 2, 0),  # Later, it may come from the restart.
        ([1, -9], 1, 75),
        ([75], 0, 75),
    ],
)
def test_child_is_started_again_until_it_is_done(monkeypatch, tmp_path, codes, restarts_allowed, expected):
    started = []

    def start(arguments, environment):
        started.append(arguments)
        return FakeChild(codes[len(started) - 1])

    monkeypatch.setattr(restarts.child_process, "start", start)
    arguments = ["train", "--restarts=0"]
    assert restarts.supervise(arguments, epath.Path(tmp_path), restarts_allowed, None, 0) == expected
    assert started == [arguments] * len(codes)


def test_end_of_a_run_is_reported_to_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(restarts.child_process, "start", lambda arguments, environment: FakeChild(2))
    assert restarts.supervise(["train"], epath.Path(tmp_path), 3, TEAM, 0) == 2
    job = json.loads((tmp_path / "restarts" / "job.json").read_text())["job"]
    assert json.loads((tmp_path / "restarts" / job / "1" / "0.json").read_text()) == {"ended": 2}


def test_child_is_ended_when_others_have_lost_theirs(monkeypatch, tmp_path):
    class RunningChild:
        code = None

        def poll(self):
            return self.code

        def wait(self):
            return self.code

        def send_signal(self, signum):
            assert signum == signal.SIGTERM
            self.code = 75

    monkeypatch.setattr(restarts.child_process, "start", lambda arguments, environment: RunningChild())
    assert restarts._train(["train"], TEAM, 0, no_signal, lambda: True) == 75
