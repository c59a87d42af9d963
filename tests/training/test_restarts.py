import json
import threading
import time

import pytest
from etils import epath

from resnet_jax.errors import UserError
from resnet_jax.training import restarts
from resnet_jax.training.restarts import Team, meet

TEAM = Team((0, 1, 2), "127.0.0.1:4321")


def meet_together(folder, delays, seconds=2.0, team=TEAM):
    """Let members of a team come after their delays. Return what each learned: a team, or the message of an error."""
    learned = {}

    def come(member, delay):
        time.sleep(delay)
        try:
            learned[member] = meet(epath.Path(folder), team, member, seconds)
        except UserError as error:
            learned[member] = str(error)

    threads = [threading.Thread(target=come, args=arguments) for arguments in delays.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return learned


def test_members_that_all_come_go_on_together_with_a_new_coordinator(tmp_path):
    learned = meet_together(tmp_path / "1", {0: 0.3, 1: 0.0, 2: 0.1}, seconds=60)
    assert learned[0] == learned[1] == learned[2]
    assert learned[0].members == (0, 1, 2)
    host, _, port = learned[0].coordinator.rpartition(":")
    assert host == "127.0.0.1" and int(port) > 0
    assert learned[2].flags(2) == [f"--coordinator={learned[0].coordinator}", "--num_processes=3", "--process_id=2"]


@pytest.mark.parametrize("dead", [0, 1])
def test_others_go_on_without_a_dead_member(tmp_path, dead):
    """The first of those that are left becomes the coordinator, and they are numbered anew."""
    left = tuple(member for member in TEAM.members if member != dead)
    learned = meet_together(tmp_path / "1", dict.fromkeys(left, 0.0))
    assert learned[left[0]] == learned[left[1]]
    assert learned[2].members == left
    assert "--process_id=1" in learned[2].flags(2)
    assert json.loads((tmp_path / "1" / f"{left[0]}.json").read_text())["address"] == learned[2].coordinator


def test_member_that_comes_too_late_is_told(tmp_path):
    learned = meet_together(tmp_path / "1", {0: 0.0, 1: 0.0, 2: 2.0}, seconds=1.0)
    assert learned[0].members == learned[1].members == (0, 1)
    assert "have gone on without this one" in learned[2]


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
        ([2], 2, 2),  # A user error would be the same again.
        ([-9, 75, 0], 2, 0),
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
