import pathlib
import types

import pytest

from resnet_jax.runtime import host_memory

GIB = 2**30
UNLIMITED = 9223372036854771712  # as version 1 says it
MACHINE = 64 * GIB


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(host_memory.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=MACHINE))


def make(root: pathlib.Path, files: dict[str, object]) -> pathlib.Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")
    return root


def version_2(group: str, limit, used=0, cached=0) -> dict[str, object]:
    place = f"sys/fs/cgroup{group}"
    statistics = f"anon {used - cached}\ninactive_file {cached}\nactive_file 7"
    return {
        f"{place}/memory.max": limit,
        f"{place}/memory.current": used,
        f"{place}/memory.stat": statistics,
    }


def version_1(group: str, limit, used=0, cached=0) -> dict[str, object]:
    place = f"sys/fs/cgroup/memory{group}"
    statistics = f"inactive_file 7\ntotal_inactive_file {cached}"
    return {
        f"{place}/memory.limit_in_bytes": limit,
        f"{place}/memory.usage_in_bytes": used,
        f"{place}/memory.stat": statistics,
    }


def test_a_machine_without_groups_is_what_psutil_says(tmp_path):
    assert host_memory.available(tmp_path) == MACHINE


def test_this_machine_has_no_more_than_psutil_says():
    """Its own files can be read, whatever they are."""
    assert 0 <= host_memory.available() <= MACHINE


def test_the_tightest_group_decides_be_it_above(tmp_path):
    """As of a Slurm job: the step has no limit, the job has one, its user a higher one. Another's group is not ours."""
    groups = {
        "proc/self/cgroup": "0::/slurm/job_7/step_0",
        **version_2("/slurm/job_7/step_0", "max"),
        **version_2("/slurm/job_7", 8 * GIB, used=3 * GIB),
        **version_2("/slurm", 32 * GIB, used=20 * GIB),
        **version_2("/slurm/job_8", 2 * GIB),
    }
    assert host_memory.available(make(tmp_path, groups)) == 5 * GIB


def test_pages_of_files_that_are_given_up_for_others_count_as_free(tmp_path):
    groups = {"proc/self/cgroup": "0::/", **version_2("", 8 * GIB, used=7 * GIB, cached=4 * GIB)}
    assert host_memory.available(make(tmp_path, groups)) == 5 * GIB


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path):
    groups = {"proc/self/cgroup": "0::/", **version_2("", GIB, used=2 * GIB)}
    assert host_memory.available(make(tmp_path, groups)) == 0


@pytest.mark.parametrize("mounted", ["", "/docker/f00"], ids=["as root in the container", "as on the host"])
def test_version_1(tmp_path, mounted):
    """Beside which version 2 may be there, without its memory; groups of other controllers are not looked at."""
    groups = {
        "proc/self/cgroup": "9:name=systemd:/docker/f00\n4:cpu,memory:/docker/f00\n1:cpu:/other\n0::/",
        **version_1("", UNLIMITED, used=50 * GIB),
        **version_1(mounted, 4 * GIB, used=2 * GIB, cached=GIB),
        **version_1("/other", GIB),
    }
    assert host_memory.available(make(tmp_path, groups)) == 3 * GIB


def test_the_limit_of_a_group_that_has_more_than_the_machine_is_none(tmp_path):
    groups = {"proc/self/cgroup": "4:memory:/", **version_1("", UNLIMITED, used=50 * GIB)}
    assert host_memory.available(make(tmp_path, groups)) == MACHINE
