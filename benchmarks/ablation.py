"""Ablation of a recipe: the recipe without each of its ingredients, on a part of CIFAR-10's training images.

    python -m benchmarks.ablation cifar10_speedrun
    python -m benchmarks.ablation cifar10_short --changes=optimizer,schedule --seeds=3

Each run trains the recipe with one change, for `--epochs` epochs of the first `--images` training images, and is scored
on the last 5,000. The test split is not read. Runs with the same seed start from the same weights, if their models are
the same, and see the same batches. SGD is tried with three learning rates. The runs stay in --runs, so the same command
resumes. Each command adds a line to results.jsonl; the table shows the newest line of each change.
"""

import json
import subprocess
import sys

from absl import app, flags, logging

from benchmarks import recipe_settings, results, run_program

# In SGD, weight decay is an L2 penalty. This one shrinks the biases of the speed-run as the recipe does.
SGD_DECAY = "--config.optimizer.weight_decay=4e-5"
# As He et al. 2015 train ResNet-20, section 4.2, but with the schedule of the recipe.
SGD = (
    "--config.optimizer.name=sgd",
    "--config.optimizer.weight_decay=1e-4",
    "--config.optimizer.fixed_kernel_norm=False",
)
RANDOM_FLIP = ("--config.augment.alternating_flip=False", "--config.augment.horizontal_flip=True")

# Flags by recipe and change. The factors of SGD keep the learning rates of the biases and of the head as they are.
CHANGES: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10_speedrun": {
        "none": (),
        "stem: 3x3 convolution": (
            *("--config.model.stem=cifar", "--config.freeze=('*/scale',)"),
            "--config.optimizer.rate_factors=('*/bias=225','head/*=0.043')",
        ),
        "activation: ReLU": ("--config.model.activation=relu",),
        "blocks: no shortcuts": ("--config.model.name=airbench94_plain",),
        "optimizer: SGD at 0.2": (
            *("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.2", SGD_DECAY),
            "--config.optimizer.rate_factors=('*/bias=135','stem_bias/bias=3','head/*=0.0258')",
        ),
        "optimizer: SGD at 1": (
            *("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1.0", SGD_DECAY),
            "--config.optimizer.rate_factors=('*/bias=27','stem_bias/bias=0.6','head/*=0.00516')",
        ),
        "optimizer: SGD at 5": (
            *("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=5.0", SGD_DECAY),
            "--config.optimizer.rate_factors=('*/bias=5.4','stem_bias/bias=0.12','head/*=0.001032')",
        ),
        "rate factors: none": ("--config.optimizer.rate_factors=()",),
        "weight decay: none": ("--config.optimizer.weight_decay=0.0",),
        "kernel norms: free": ("--config.optimizer.fixed_kernel_norm=False",),
        "norm scales: trained": ("--config.freeze=('stem_conv/kernel',)",),
        "flip: at random": RANDOM_FLIP,
        "crop border: black": ("--config.augment.crop_border=black",),
        "schedule: cosine": ("--config.schedule.name=cosine",),
        "label smoothing: none": ("--config.loss.label_smoothing=0.0",),
        "dtype: float32": ("--config.model.dtype=float32",),
    },
    "cifar10_short": {
        "none": (),
        "optimizer: SGD at 0.05": (*SGD, "--config.optimizer.learning_rate=0.05"),
        "optimizer: SGD at 0.1": (*SGD, "--config.optimizer.learning_rate=0.1"),
        "optimizer: SGD at 0.2": (*SGD, "--config.optimizer.learning_rate=0.2"),
        "weight decay: none": ("--config.optimizer.weight_decay=0.0",),
        "kernel norms: free": ("--config.optimizer.fixed_kernel_norm=False",),
        "flip: at random": RANDOM_FLIP,
        "crop border: black": ("--config.augment.crop_border=black",),
        "image size: 32 in all epochs": ("--config.augment.progressive_resizing=()",),
        "schedule: cosine": ("--config.schedule.name=cosine",),
        "batch size: 128, half the rate": ("--config.batch_size=128", "--config.optimizer.learning_rate=0.04"),
    },
}

NAMES = flags.DEFINE_list("changes", None, "The changes whose names begin with one of these. Default: all.")
EPOCHS = flags.DEFINE_integer("epochs", 4, "Number of epochs.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 10_000, "Number of training images.", 512, 45_000)
SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds: 0, 1, 2, ...", lower_bound=1)
RUNS = flags.DEFINE_string("runs", str(run_program.ROOT / "runs" / "ablation"), "Directory for the run directories.")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    if len(argv) != 2 or argv[1] not in CHANGES:
        raise app.UsageError(f"Give one of the recipes {' and '.join(CHANGES)}.")
    recipe = argv[1]
    beginnings = tuple(NAMES.value or [""])
    names = [name for name in CHANGES[recipe] if name == "none" or name.startswith(beginnings)]
    if not any(name.startswith(beginnings) for name in CHANGES[recipe]):
        known = "; ".join(CHANGES[recipe])
        raise app.UsageError(f"No change begins with {' or '.join(beginnings)}. Choose from: {known}.")
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for seed in range(SEEDS.value):
        for name in names:
            runs[name].append(_train(recipe, name, seed))
            print(f"seed {seed}, {name}: {runs[name][-1]}", flush=True)
    results.add(
        "ablation",
        recipe=recipe_settings.recipe_path(recipe),
        cpu_is_tuned="as the runs say",
        epochs=EPOCHS.value,
        images=IMAGES.value,
        runs=runs,
    )


def _train(recipe: str, change: str, seed: int) -> dict:
    """Train with a change, and return the top-1 on the last 5,000 training images and the time of training."""
    part = f"{EPOCHS.value}_epochs_of_{IMAGES.value}_images"
    workdir = run_program.runs_directory(RUNS.value, recipe, part, change, f"seed{seed}")
    config = (
        f"--config={recipe_settings.recipe_path(recipe)}",
        *CHANGES[recipe][change],
        f"--config.seed={seed}",
        f"--config.num_epochs={EPOCHS.value}",
        f"--config.evaluate_every_epochs={EPOCHS.value}",  # Only the last checkpoint is scored.
        f"--config.dataset.train_split=train[:{IMAGES.value}]",
        "--config.dataset.validation_split=train[45000:]",
        "--config.dataset.test_split=none",
    )
    subprocess.run([sys.executable, "main.py", *config, f"--workdir={workdir}"], cwd=run_program.ROOT, check=True)
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    scores_file = workdir / "scores.json"  # Scoring takes minutes, so a resumed ablation does not repeat it.
    if not scores_file.exists():
        evaluate = ("evaluate", f"--workdir={workdir}", "--split=validation", "--tta=mirror_translate")
        scores_file.write_text(json.dumps(run_program.run_command(*evaluate)), encoding="utf-8")
    scores = json.loads(scores_file.read_text(encoding="utf-8"))
    return {
        "top1": result["validation"]["top1"],
        "tta_top1": scores["tta"]["mirror_translate"]["top1"],
        "seconds": result["seconds"],
        "provenance": result["provenance"],
    }


if __name__ == "__main__":
    app.run(main)
