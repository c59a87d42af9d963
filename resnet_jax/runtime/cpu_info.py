"""Information about the processor, from Linux (/proc/cpuinfo)."""

import pathlib


def read_lines() -> list[str]:
    """Return the lines of /proc/cpuinfo, such as "model name : AMD EPYC". Return no lines on other systems."""
    try:
        return pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
