"""Training of the runs of a study, each in a process of its own, one after another or several at a time.

The process runs the command that would train the run alone. So one failed run does not stop the others, and an
interrupted one is resumed when the study is started again.
"""

import contextlib
import queue
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from resnet_jax.errors import ExitCode, program
from resnet_jax.runtime import child_process
from resnet_jax.studies.device_shares import device_share
from resnet_jax.studies.study import Outcome, SubRun
from resnet_jax.terminal import Reporter, primary_metric
from resnet_jax.training.interruption import EXCEPTION_BY_SIGNAL, deferred_signals

POLL_SECONDS = 0.5

# A function that is called after each line of output of a run, and returns whether to stop the run.
Prune = Callable[[SubRun], bool]


def train_all(
    runs: Iterable[SubRun], jobs: int, reporter: Reporter, prune: Prune = lambda run: False
) -> Iterator[tuple[SubRun, Outcome]]:
    """Train runs, at most `jobs` at a time, and yield each with its outcome when it has ended.

    Finished, pruned and diverged runs are yielded at once. The next run is taken from `runs` when a process is free, so
    `runs` may depend on the outcomes so far.

    Args:
      runs: the runs.
      jobs: the number of processes; each gets an equal share of the devices.
      reporter: shows the newest line of output. All output of a run is appended to a file beside its directory, such
        as `seed0.log`.
      prune: decides whether to stop a run before its end.

    Raises:
      KeyboardInterrupt, Preempted: after a signal, when all processes have saved and ended. After a second Ctrl-C, at
        once.
      UserError: if a directory holds another run, or if there are fewer devices than jobs.
    """
    waiting = iter(runs)
    free = list(range(jobs))[::-1]
    active: dict[str, _Process] = {}
    output: queue.Queue[tuple[str, str | None]] = queue.Queue()
    with deferred_signals() as received_signal, _ended_on_error(active):
        while True:
            while free and not received_signal() and (run := next(waiting, None)) is not None:
                if run.ended_as or run.is_finished():
                    yield run, run.ended_as or Outcome.FINISHED
                    continue
                job = free.pop()
                reporter.print(f"{run.name}: {program()} {shlex.join(run.arguments())}")
                active[run.name] = _Process(run, job, device_share(job, jobs), output)
            if not active:
                break
            name, line = _next_line(output)
            if signum := received_signal():
                for process in active.values():
                    process.stop(signum)
            if name is None:
                continue
            process = active[name]
            if line is not None:
                reporter.update(f"{name}: {line}")
                if prune(process.run):
                    process.prune()
                continue
            del active[name]
            free.append(process.job)
            outcome = process.outcome()
            reporter.print(_describe_end(process, outcome))
            yield process.run, outcome
        if signum := received_signal():
            reporter.print("Stopped. Run the same command again to resume.")
            raise EXCEPTION_BY_SIGNAL[signum]


@contextlib.contextmanager
def _ended_on_error(processes: Mapping[str, "_Process"]) -> Iterator[None]:
    """End the processes if an exception ends this context: let them save, but not after a second Ctrl-C."""
    try:
        yield
    except Exception:
        for process in processes.values():
            process.stop(signal.SIGTERM)
        for process in processes.values():
            process.outcome()
        raise
    except BaseException:
        for process in processes.values():
            process.kill()
        raise


def _next_line(output: queue.Queue) -> tuple[str | None, str | None]:
    """Return the name of a run and its next line of output, or None as the line at its end.

    Return (None, None) if no run prints anything within `POLL_SECONDS`.
    """
    try:
        return output.get(timeout=POLL_SECONDS)
    except queue.Empty:
        return None, None


def _describe_end(process: "_Process", outcome: Outcome) -> str:
    """Return a line about the end of a run, such as "seed0: finished. validation 97.20%, test 98.05%"."""
    if outcome == Outcome.FINISHED:
        result = process.run.result()
        scored = {split: result[split] for split in ("validation", "test") if result[split]}
        scores = [f"{split} {metrics[primary_metric(metrics)[0]]:.2%}" for split, metrics in scored.items()]
        return f"{process.run.name}: finished. {', '.join(scores)}"
    reason = f"{process.last_line} All output is in {process.log}." if outcome == Outcome.FAILED else ""
    return f"{process.run.name}: {outcome}. {reason}".rstrip()


class _Process:
    """The process that trains a run. A thread writes what it prints to a log file and to a queue.

    Ctrl-C reaches the process only through `stop`.

    Attributes:
      run: the run.
      job: the number of the process among those that train at the same time.
      log: the path of the log file.
      last_line: the last line of output that is not empty.
    """

    def __init__(self, run: SubRun, job: int, environment: Mapping[str, str], output: queue.Queue):
        self.run, self.job = run, job
        self.log = f"{run.workdir}.log"
        self.last_line = ""
        self._is_pruned = False
        self._signal: int | None = None
        self._process = child_process.start(
            ["train", *run.arguments()],
            environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        threading.Thread(target=self._read, args=(output,), daemon=True).start()

    def _read(self, output: queue.Queue) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                # A full disk must not keep the other runs waiting.
                with contextlib.suppress(OSError), open(self.log, "a", encoding="utf-8") as log:
                    log.write(line)
                self.last_line = line.strip() or self.last_line
                output.put((self.run.name, line.rstrip("\n")))
        output.put((self.run.name, None))

    def stop(self, signum: int) -> None:
        """Pass on a signal, once; the process saves and ends."""
        if self._signal is None:
            self._signal = signum
            self._process.send_signal(signum)

    def prune(self) -> None:
        """Stop the process, because other runs were better."""
        self._is_pruned = True
        self.stop(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once, without saving."""
        self._process.kill()

    def outcome(self) -> Outcome:
        """Wait for the end of the process, and return the outcome."""
        code = self._process.wait()
        if code == ExitCode.DONE:
            return Outcome.FINISHED
        # While it starts or ends, the program does not handle signals, so the signal itself ends it.
        ended_by_signal = self._signal is not None and code == -self._signal
        if ended_by_signal or code in (ExitCode.INTERRUPTED, ExitCode.RESUMABLE):
            return Outcome.PRUNED if self._is_pruned else Outcome.STOPPED
        return Outcome.FAILED
