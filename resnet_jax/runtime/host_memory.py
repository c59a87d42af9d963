"""What memory of the host this process may still take, also in a container or a Slurm job.

Their limits, of which psutil knows nothing, are those of Linux's control groups. Version 2 of these is described at
https://docs.kernel.org/admin-guide/cgroup-v2.html, version 1 at https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import psutil

from resnet_jax.runtime import cpu_tuning


@dataclasses.dataclass(frozen=True)
class _Version:
    """Where groups lie, and the names of files in their directories, and of a line in the file of statistics."""

    mount: str
    limit: str
    usage: str
    cached: str  # pages of files that were not used lately: they count as usage, but are given up for others


_V2 = _Version("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1 = _Version("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Bytes that are free on the machine, or fewer where the groups of this process are allowed fewer."""
    cpu_tuning.give_back()
    return min([psutil.virtual_memory().available, *_left_to_groups(root)])


def _left_to_groups(root: pathlib.Path) -> Iterator[int]:
    """What each group of this process with a limit has left, and each above it."""
    groups = root / "proc" / "self" / "cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = _V1 if controllers else _V2
        mount = root / version.mount
        group = mount / path.lstrip("/")
        # In a container its group may be the mount, and the path that of the host: what is not there is passed over.
        for place in (group, *group.parents):
            if place.is_relative_to(mount) and (place / version.limit).exists():
                yield from _left(place, version)


def _left(group: pathlib.Path, version: _Version) -> Iterator[int]:
    limit = (group / version.limit).read_text().strip()
    if limit != "max":
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / version.usage).read_text()) - int(statistics.get(version.cached, 0))
        yield max(0, int(limit) - used)
