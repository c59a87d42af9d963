import pathlib
import types

import pytest

from resnet_jax.runtime import host_memory

GIB = 2**30
UNLIMITED = 9223372036854771712  # how version 1 of cgroups expresses it
MACHINE = 64 * GIB


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(host_memory.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=MACHINE))


def make(root: pathlib.Path, files: dict[str, object]) -> pathlib.Path:
    """Write files with these contents, by path, and return `root`."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")
    return root


def version_2(group: str, limit, used=0, cached=0) -> dict[str, object]:
    """Return the files of a group in version 2 of cgroups, as content by path."""
    directory = f"sys/fs/cgroup{group}"
    statistics = f"anon {used - cached}\ninactive_file {cached}\nactive_file 7"
    return {
        f"{directory}/memory.max": limit,
        f"{directory}/memory.current": used,
        f"{directory}/memory.stat": statistics,
    }


def version_1(group: str, limit, used=0, cached=0) -> dict[str, object]:
    """Return the files of a group in version 1 of cgroups, as content by path."""
    directory = f"sys/fs/cgroup/memory{group}"
    statistics = f"inactive_file 7\ntotal_inactive_file {cached}"
    return {
        f"{directory}/memory.limit_in_bytes": limit,
        f"{directory}/memory.usage_in_bytes": used,
        f"{directory}/memory.stat": statistics,
    }


def test_memory_without_cgroups_is_that_of_psutil(tmp_path):
    assert host_memory.available(tmp_path) == MACHINE


def test_memory_of_this_machine_is_at_most_that_of_psutil():
    """The real cgroup files of this machine can be read."""
    assert 0 <= host_memory.available() <= MACHINE


def test_tightest_parent_group_decides(tmp_path):
    """As in a Slurm job: the step has no limit, the job has a limit, and all jobs together have a higher one.

    The group of another job is ignored.
    """
    groups = {
        "proc/self/cgroup": "0::/slurm/job_7/step_0",
        **version_2("/slurm/job_7/step_0", "max"),
        **version_2("/slurm/job_7", 8 * GIB, used=3 * GIB),
        **version_2("/slurm", 32 * GIB, used=20 * GIB),
        **version_2("/slurm/job_8", 2 * GIB),
    }
    assert host_memory.available(make(tmp_path, groups)) == 5 * GIB


def test_reclaimable_file_pages_count_as_free(tmp_path):
    groups = {"proc/self/cgroup": "0::/", **version_2("", 8 * GIB, used=7 * GIB, cached=4 * GIB)}
    assert host_memory.available(make(tmp_path, groups)) == 5 * GIB


def test_group_over_its_limit_has_no_free_memory(tmp_path):
    groups = {"proc/self/cgroup": "0::/", **version_2("", GIB, used=2 * GIB)}
    assert host_memory.available(make(tmp_path, groups)) == 0


@pytest.mark.parametrize("mounted", ["", "/docker/f00"], ids=["as root in the container", "as on the host"])
def test_version_1_groups_limit_the_memory(tmp_path, mounted):
    """Version 2 may be mounted as well, without a memory controller. Groups of other controllers are ignored."""
    groups = {
        "proc/self/cgroup": "9:name=systemd:/docker/f00\n4:cpu,memory:/docker/f00\n1:cpu:/other\n0::/",
        **version_1("", UNLIMITED, used=50 * GIB),
        **version_1(mounted, 4 * GIB, used=2 * GIB, cached=GIB),
        **version_1("/other", GIB),
    }
    assert host_memory.available(make(tmp_path, groups)) == 3 * GIB


def test_limit_above_the_memory_of_the_machine_has_no_effect(tmp_path):
    groups = {"proc/self/cgroup": "4:memory:/", **version_1("", UNLIMITED, used=50 * GIB)}
    assert host_memory.available(make(tmp_path, groups)) == MACHINE
