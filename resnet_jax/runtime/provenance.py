"""Where and with what a result was made: a number without this cannot be trusted later."""

import datetime
import functools
import os
import pathlib
import platform
import subprocess
from importlib import metadata

import jax

from resnet_jax.runtime import cpu_tuning

# Runs repeat bit for bit only where all of these agree.
REPRODUCIBLE_WITHIN = ("machine", "cpu_count", "cpu_is_tuned", "device", "device_count", "jaxlib")


def describe() -> dict[str, object]:
    """Commit, versions, hardware and date (UTC) of this process, as JSON values."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
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
    """What changed of all that bitwise repetition depends on, as phrases."""
    before = {"cpu_is_tuned": False, **before}  # Of older runs none was, and they do not say so.
    return [f"{key} {before.get(key)} -> {now[key]}" for key in REPRODUCIBLE_WITHIN if before.get(key) != now[key]]


@functools.cache
def _commit() -> str | None:
    """The commit of this checkout, with "+changes" where the work tree differs; None outside a git checkout.

    As it is when first asked for: later edits are not what this process runs.
    """
    root = pathlib.Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    """The processor's name, with family and model where the system tells them; "" where Linux does not.

    Clouds give one name to several generations, whose instructions differ, and so the last bits of what they compute.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in pairs}
    if "model name" not in fields:
        return ""
    exactly = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{fields['model name']} ({', '.join(exactly)})" if exactly else fields["model name"]
