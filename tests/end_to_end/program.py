"""Start main.py as a user does, with one additional model, "tiny"."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
HERE = ROOT / "tests" / "end_to_end"

TINY_PROGRAM = str(HERE / "tiny.py")  # main.py with a model that compiles in a second

# A small run on digits. It takes a few seconds, most of them to start.
SHORT_DIGITS = (
    "--config=configs/digits.py",
    "--config.model.name=tiny",
    "--config.num_epochs=4",
    "--config.schedule.warmup_epochs=0.5",
    "--config.dataset.train_split=train[:600]",
    "--config.log_every_steps=3",
    "--config.ema_decay=0.9",
)

# Environment variables that hide TensorFlow and TensorBoard from a program, as if they were not installed: when Python
# starts, it runs the module `sitecustomize` that lies on this path. A run without TensorBoard starts in half the time,
# so this is the default.
WITHOUT_TENSORFLOW = {"PYTHONPATH": os.pathsep.join([str(HERE / "without_tensorflow"), str(ROOT)])}
WITH_TENSORFLOW = {"PYTHONPATH": str(ROOT)}

# XLA's flags for a run of several processes. Only process 0 writes JAX's compilation cache, and only for its devices.
# So the other processes compile everything again, in half the time without LLVM's optimizations.
QUICK_TO_COMPILE = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"}

# The program for `python -c` without JAX, as if it were not installed.
WITHOUT_JAX = (
    "import sys; sys.modules['jax'] = None; sys.argv[0] = 'main.py'; from resnet_jax.cli import app; app.main()"
)

# Environment variables of a locale in which text is ASCII, and so is the text that Python reads and writes by default.
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def start(*arguments: str, program: str = TINY_PROGRAM, **environment: str) -> subprocess.Popen:
    """Start the program on a single device, without TensorFlow.

    Args:
      *arguments: the command line, without the program.
      program: a Python file, such as `main.py`.
      **environment: environment variables to add or replace.
    """
    environment = {**os.environ, "XLA_FLAGS": "", **WITHOUT_TENSORFLOW, **environment}
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Start the program (see `start`) and wait until it ends."""
    process = start(*arguments, **environment)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def start_processes(num_processes, *arguments, program=TINY_PROGRAM, arguments_of=lambda process: (), **environment):
    """Start the processes of one run, without TensorFlow, and return them.

    Args:
      num_processes: the number of processes.
      *arguments: the command line of all of them.
      program: a Python file.
      arguments_of: returns additional arguments for one process, given its number.
      **environment: environment variables to add or replace.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, **QUICK_TO_COMPILE, **WITHOUT_TENSORFLOW, **environment}
    processes = []
    for process in range(num_processes):
        command = [sys.executable, program, *arguments, *arguments_of(process)]
        if num_processes > 1:
            command += [
                f"--coordinator={address}",
                f"--num_processes={num_processes}",
                f"--process_id={process}",
            ]
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return processes


def wait_for_processes(processes, seconds=600):
    """Wait until all processes have ended, and return their exit codes, their stdout and their stderr.

    Args:
      processes: as `start_processes` returns them.
      seconds: how long to wait for each.
    """
    outputs = [process.communicate(timeout=seconds) for process in processes]
    return [process.returncode for process in processes], *zip(*outputs, strict=True)


def run_without_jax(*arguments: str) -> subprocess.CompletedProcess:
    """Run the program without JAX, for what must work before JAX is imported, and return the finished process."""
    return subprocess.run([sys.executable, "-c", WITHOUT_JAX, *arguments], cwd=ROOT, capture_output=True, text=True)
