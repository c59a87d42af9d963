"""Host memory that is available to this process, also in a container or a Slurm job.

The limits of containers and Slurm jobs are those of Linux control groups (cgroups), which psutil ignores. See
https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import psutil

from resnet_jax.runtime import cpu_tuning


@dataclasses.dataclass(frozen=True)
class _Version:
    """The paths and names of one version of cgroups.

    Attributes:
      mount: where the groups are mounted, relative to the root.
      limit: the file with the memory limit.
      usage: the file with the memory in use.
      cached: the entry of `memory.stat` for file pages that were not used recently. These pages count as usage, but
        the system reclaims them on demand.
    """

    mount: str
    limit: str
    usage: str
    cached: str


_V2 = _Version("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1 = _Version("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Return the bytes that this process can still use: those free on the machine, or fewer if a cgroup limits them."""
    cpu_tuning.release_memory()
    return min([psutil.virtual_memory().available, *_group_headrooms(root)])


def _group_headrooms(root: pathlib.Path) -> Iterator[int]:
    """Yield the unused bytes of each cgroup of this process that has a limit, and of each parent group."""
    groups = root / "proc" / "self" / "cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = _V1 if controllers else _V2
        mount = root / version.mount
        group = mount / path.lstrip("/")
        # In a container, the group itself may be mounted at `mount`, while `path` is its path on the host. Directories
        # that do not exist here are therefore skipped.
        for directory in (group, *group.parents):
            if directory.is_relative_to(mount) and (directory / version.limit).exists():
                yield from _headroom(directory, version)


def _headroom(group: pathlib.Path, version: _Version) -> Iterator[int]:
    """Yield the unused bytes of a cgroup, if it has a limit."""
    limit = (group / version.limit).read_text(encoding="utf-8").strip()
    if limit != "max":
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        used = int((group / version.usage).read_text(encoding="utf-8")) - int(statistics.get(version.cached, 0))
        yield max(0, int(limit) - used)
