"""Runs whose output cannot be written, or that start without standard streams."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.end_to_end.program import ROOT, SHORT_DIGITS, TINY_PROGRAM, WITHOUT_TENSORFLOW


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>&1 | head -1", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_run_completes_without_its_output(tmp_path, redirection):
    command = shlex.join([sys.executable, TINY_PROGRAM, *SHORT_DIGITS, f"--workdir={tmp_path}/run"])
    finished = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {redirection}"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", **WITHOUT_TENSORFLOW},
        capture_output=True,
        text=True,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"]["examples"] == 359
