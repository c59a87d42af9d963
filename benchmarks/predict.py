"""Images per second and memory of `python main.py predict`. Memory should hardly grow with the number of images.

    python -m benchmarks.predict                          # a ResNet-20, trained for an epoch on digits
    python -m benchmarks.predict --workdir=/tmp/run       # a model of your own

RESULT, 2026-11-25, commit b14d664, 2 cores of an AMD EPYC (a shared machine, at a load of 9),
Python 3.11, JAX 0.10.2, n = 1, the ResNet-20 of digits:

      images   images/s   seconds in all   main MB   workers MB
         500        583             10.7       359            0
       2,500        465             23.2       364          462
       5,000        474             26.5       370          464

From 500 to 5,000 images, the memory of the main process grows by 11 MB; from 2,500 to 5,000, that of the workers grows
by 2 MB. The rates depend on the load: at a lower load, 5,000 images reached 1,144 images/s, with the same memory within
2 MB.

The images are JPEGs of 200 to 400 pixels on a side, cropped at random from the two photographs that come with
scikit-learn; one file in a hundred is truncated. The benchmark runs the real command, with `--format=csv` and
`--features`, in its own process. With 1,000 images or more, the command starts worker processes. Each of them takes at
least the memory that Python and JAX need.

Images per second are counted from the first line of output to the last. The column *seconds in all* includes starting
and compiling. Memory is polled every 20 ms, and the largest resident set counts: that of the main process, and the sum
over its workers, where shared memory counts once per worker. The benchmark fails unless the command prints one line per
image, in order, with an error for exactly the damaged images.
"""

import csv
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import psutil
from absl import app, flags, logging
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import results, run_program
from resnet_jax.errors import ExitCode
from resnet_jax.runtime import provenance
from resnet_jax.terminal import table

WORKDIR = flags.DEFINE_string("workdir", None, "Run directory. Default: train a ResNet-20 on digits for one epoch.")
COUNTS = flags.DEFINE_list(
    "counts", ["500", "2500", "5000"], "Numbers of images to predict, measured one after another."
)

SIDES = (200, 400)  # pixels
DAMAGED_EVERY = 100  # one image in this many is damaged
POLL_SECONDS = 0.02


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    machine = provenance.describe()
    counts = [int(count) for count in COUNTS.value]
    with tempfile.TemporaryDirectory() as scratch:
        workdir, folder = WORKDIR.value or f"{scratch}/run", f"{scratch}/images"
        if not WORKDIR.value:
            recipe = ("--config=configs/digits.py", "--config.num_epochs=1", "--config.schedule.warmup_epochs=0.5")
            _check(
                subprocess.run(
                    [*_program(), *recipe, f"--workdir={workdir}"], cwd=run_program.ROOT, capture_output=True
                )
            )
        files = _make_images(pathlib.Path(folder), max(counts))
        megabytes = sum(map(os.path.getsize, files)) / 1e6
        print(
            f"{machine['machine']}, {machine['cpu_count']} cores; {len(files):,} JPEGs, {megabytes:,.0f} MB", flush=True
        )
        figures = [_predict(workdir, files[:count], f"{scratch}/out.npz") for count in counts]
    rows = [
        (
            result["pictures"],
            round(result["images_per_second"]),
            f"{result['seconds']:.1f}",
            round(result["main_mb"]),
            round(result["workers_mb"]),
        )
        for result in figures
    ]
    print("\n" + table(rows, header=("images", "images/s", "seconds in all", "main MB", "workers MB")))
    run = os.path.basename(os.path.normpath(WORKDIR.value)) if WORKDIR.value else "resnet20 on digits"
    results.append("predict", run=run, figures=figures)


def _make_images(folder: pathlib.Path, count: int) -> list[str]:
    """Write JPEGs, some of them damaged, and return their paths, sorted."""
    folder.mkdir()
    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        photograph = photographs[number % 2]
        height, width = random.integers(*SIDES, 2)
        top, left = (
            random.integers(full - side) for full, side in zip(photograph.shape, (height, width), strict=False)
        )
        Image.fromarray(photograph[top : top + height, left : left + width]).save(path, quality=90)
        if _is_damaged(number):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return [str(path) for path in paths]


def _is_damaged(number: int) -> bool:
    return number % DAMAGED_EVERY == DAMAGED_EVERY // 2


def _predict(workdir: str, files: list[str], features: str) -> dict[str, float]:
    """Predict images by their paths, check the output, and return speed and memory."""
    arguments = ("predict", f"--workdir={workdir}", "--format=csv", f"--features={features}")
    start = time.perf_counter()
    arrival_times: list[float] = []
    lines: list[str] = []
    process = subprocess.Popen(
        [*_program(), *arguments, *files],
        cwd=run_program.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    memory = _Memory(process.pid)
    memory.start()
    for line in process.stdout:
        arrival_times.append(time.perf_counter())
        lines.append(line)
    errors = process.stderr.read()
    code, seconds = process.wait(), time.perf_counter() - start
    memory.join()
    _check_lines(lines, files, code, errors)
    with np.load(features) as written:
        good = [path for number, path in enumerate(files) if not _is_damaged(number)]
        if written["names"].tolist() != good or len(written["features"]) != len(good):
            raise RuntimeError("the features are not those of all readable images in order")
    # Line 0 is the header. The lines of the first batch arrive together, so only those after them are timed.
    seconds_after_first = [moment - arrival_times[1] for moment in arrival_times[1:]]
    first_batch = sum(moment < POLL_SECONDS for moment in seconds_after_first)
    rate = (len(files) - first_batch) / seconds_after_first[-1]
    memories = {"main_mb": memory.main / 1e6, "workers_mb": memory.workers / 1e6}
    return {"pictures": len(files), "images_per_second": rate, "seconds": seconds, **memories}


def _check_lines(lines: list[str], files: list[str], code: int, errors: str) -> None:
    rows = list(csv.DictReader(lines))
    if code != ExitCode.SOME_FAILED or [row["picture"] for row in rows] != files:
        raise RuntimeError(f"exit code {code} and {len(rows)} lines for {len(files)} images: {errors}")
    for number, row in enumerate(rows):
        if bool(row["error"]) != _is_damaged(number) or bool(row["class_1"]) == _is_damaged(number):
            raise RuntimeError(f"unexpected line: {row}")


class _Memory(threading.Thread):
    """A thread that monitors the memory of a process until that process ends.

    Attributes:
      main, workers: the largest resident sets, in bytes, of the process, and of its descendants together.
    """

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self.main = 0
        self.workers = 0

    def run(self) -> None:
        try:
            while self._process.status() != psutil.STATUS_ZOMBIE:
                self.main = max(self.main, self._process.memory_info().rss)
                self.workers = max(self.workers, sum(map(_resident, self._process.children(recursive=True))))
                time.sleep(POLL_SECONDS)
        except psutil.NoSuchProcess:
            return


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _program() -> tuple[str, str]:
    return sys.executable, "main.py"


def _check(finished: subprocess.CompletedProcess) -> None:
    if finished.returncode:
        raise RuntimeError(finished.stderr.decode())


if __name__ == "__main__":
    app.run(main)
