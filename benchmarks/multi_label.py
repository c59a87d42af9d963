"""Any number of labels per image: which digits an image shows.

    python -m benchmarks.multi_label

Each image has room for two of scikit-learn's digits, side by side, and shows none to two of them. Images for testing
are made of the digits of the test split. Several seeds are trained by the command `repeat`, and scored with the
thresholds that each has chosen on validation.
"""

import pathlib
import tempfile

import numpy as np
from absl import app, flags, logging
from PIL import Image

from benchmarks import results, run_program
from resnet_jax.data.sources import Source, open_sources

IMAGES = {"train": 4_000, "test": 1_000}
SHOWN = 0.7  # the probability that there is a digit on the left, and on the right

SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds: 0, 1, 2, ...", lower_bound=2)
EPOCHS = flags.DEFINE_integer("epochs", 15, "Number of epochs.", lower_bound=1)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        for split, source in open_sources("digits").items():
            write_images(root / split, source, IMAGES[split])
        study = f"--workdir={root / 'study'}"
        recipe = (
            "--config=configs/digits.py",
            f"--config.dataset.name=multi_label_folder:{root}",
            f"--config.num_epochs={EPOCHS.value}",
            "--config.loss.name=binary_cross_entropy",
            "--config.checkpoint.best_metric=map",
        )
        run_program.run_command("repeat", *recipe, f"--seeds=0:{SEEDS.value}", study)
        scored = run_program.run_command("evaluate", study)
    runs = [{metric: run[metric] for metric in ("map", "f1", "top1")} for run in scored["runs"]]
    results.add("multi_label", cpu_is_tuned="as a run is", images=IMAGES, epochs=EPOCHS.value, runs=runs)


def write_images(split: pathlib.Path, source: Source, number: int) -> None:
    """Write images of 16 x 16 pixels into the directory of each of their digits."""
    generator = np.random.default_rng(0)
    for index in range(number):
        canvas = np.zeros((16, 16), np.uint8)
        labels = set()
        for left in (0, 8):
            image, label = source[int(generator.integers(len(source)))]
            if generator.uniform() < SHOWN:
                top = int(generator.integers(9))
                canvas[top : top + 8, left : left + 8] = image[..., 0]
                labels.add(str(label))
        for directory in [split / label for label in labels] or [split]:
            directory.mkdir(parents=True, exist_ok=True)
            Image.fromarray(canvas).save(directory / f"{index}.png")


if __name__ == "__main__":
    app.run(main)
