"""Class imbalance: digits with three classes cut to a tenth, with and without the settings that balance classes.

    python -m benchmarks.imbalance

The test split keeps all of its images, and each class has about as many of them as any other. Each setting is trained
with several seeds by the command `repeat`. All runs of a seed start from the same weights.
"""

import csv
import pathlib
import tempfile

import numpy as np
from absl import app, flags, logging
from PIL import Image

from benchmarks import results, run_program
from resnet_jax.data.sources import open_sources

RARE = (1, 3, 8)  # the digits of which a tenth is kept
SETTINGS: dict[str, tuple[str, ...]] = {
    "none": (),
    "loss.class_weights=balanced": ("--config.loss.class_weights=balanced",),
    "dataset.sampler=balanced": ("--config.dataset.sampler=balanced",),
    "loss.focal_gamma=2": ("--config.loss.focal_gamma=2.0",),
}

SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, 2, ...", lower_bound=2)
EPOCHS = flags.DEFINE_integer("epochs", 30, "Number of epochs.", lower_bound=1)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        counts = write_images(root)
        runs = {name: train(root, name, changes) for name, changes in SETTINGS.items()}
    results.add("imbalance", cpu_is_tuned="as a run is", rare=RARE, counts=counts, epochs=EPOCHS.value, runs=runs)


def write_images(root: pathlib.Path) -> list[int]:
    """Write the images and the CSV file that lists them, and return the number of training images per class."""
    kept = []
    for split, source in open_sources("digits").items():
        for index, label in enumerate(source.labels.tolist()):
            if split == "train" and label in RARE and np.count_nonzero(source.labels[:index] == label) % 10:
                continue
            name = f"{split}_{index}.png"
            Image.fromarray(source[index][0][..., 0]).save(root / name)
            kept.append((name, label, split))
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "label", "split"), *kept])
    return np.bincount([label for _, label, split in kept if split == "train"]).tolist()


def train(root: pathlib.Path, name: str, changes: tuple[str, ...]) -> list[dict]:
    """Train all seeds with these changes, and return their test metrics."""
    study = root / name
    recipe = ("--config=configs/digits.py", f"--config.num_epochs={EPOCHS.value}")
    data = f"--config.dataset.name=csv:{root}/labels.csv"
    run_program.run_command("repeat", *recipe, data, *changes, f"--seeds=0:{SEEDS.value}", f"--workdir={study}")
    scored = run_program.run_command("evaluate", f"--workdir={study}")
    return [
        {
            "top1": run["top1"],
            "macro_f1": float(np.mean([metrics["f1"] for metrics in run["classes"]])),
            "rare_recall": float(np.mean([run["classes"][digit]["recall"] for digit in RARE])),
        }
        for run in scored["runs"]
    ]


if __name__ == "__main__":
    app.run(main)
