"""Provenance of a result: commit, versions, hardware and date. Without these, a number cannot be trusted later."""

import datetime
import functools
import os
import pathlib
import platform
import subprocess
from importlib import metadata

import jax

from resnet_jax.runtime import cpu_info, cpu_tuning

RESULTS = "benchmarks/results.jsonl"  # Benchmarks append to it, so it differs from the commit that they measure.
# Runs are bit-reproducible only if all of these agree.
REPRODUCIBLE_WITHIN = ("machine", "cpu_count", "cpu_is_tuned", "device", "device_count", "process_count", "jaxlib")


def describe() -> dict[str, object]:
    """Return commit, versions, hardware and date (UTC) of this process, as JSON values."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "jax": metadata.version("jax"),
        "jaxlib": metadata.version("jaxlib"),
        "flax": metadata.version("flax"),
        "machine": f"{platform.machine()} {_processor()}".strip(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_is_tuned": cpu_tuning.is_tuned(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def differences(before: dict[str, object], now: dict[str, object]) -> list[str]:
    """Return a phrase for each change that may affect bit-reproducibility, such as "device_count 1 -> 8"."""
    before = {"cpu_is_tuned": False, **before}  # Old runs lack the key, and were not tuned.
    return [f"{key} {before.get(key)} -> {now[key]}" for key in REPRODUCIBLE_WITHIN if before.get(key) != now[key]]


@functools.cache
def commit() -> str | None:
    """Return the commit of this project's checkout, with "+changes" if the work tree differs; None if there is none.

    Results that benchmarks have recorded do not count as changes. The result of the first call is kept, because this
    process does not run edits made later.
    """
    root = pathlib.Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout.strip()

    try:
        # An installed package may lie inside the checkout of another project, which does not track this file.
        git("ls-files", "--error-unmatch", "--", "runtime/provenance.py")
        changes = git("status", "--porcelain", "--", ":/", f":(top,exclude){RESULTS}")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    """Return the name of the processor, with family and model number if known; "" if the name is unknown.

    The numbers matter because clouds use one name for several generations. These differ in their instructions, and so
    in the last bits of their results.
    """
    lines = cpu_info.read_lines()
    if not lines:
        return platform.processor()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in pairs}
    if "model name" not in fields:
        return ""
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{fields['model name']} ({', '.join(numbers)})" if numbers else fields["model name"]
