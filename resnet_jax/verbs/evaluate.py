"""Score the chosen checkpoint of a run on its test split."""

import json

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "A table for people, or one line of JSON.")
flags.mark_flag_as_required("workdir")


def run() -> int:
    from resnet_jax.data.sources import open_dataset
    from resnet_jax.evaluation.evaluate import score_run
    from resnet_jax.run import load_run
    from resnet_jax.terminal import scores_table

    trained = load_run(WORKDIR.value)
    dataset = trained.config.dataset
    scores = score_run(trained, open_dataset(dataset.name, dataset.data_dir), dataset.test_split)
    if FORMAT.value == "json":
        print(json.dumps({"split": dataset.test_split, "checkpoint_step": trained.step, **scores}))
    else:
        print(scores_table({dataset.test_split: scores}))
        print(f"\nCheckpoint of step {trained.step:,}.")
    return 0
