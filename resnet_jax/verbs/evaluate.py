"""Score the chosen checkpoint of a run on its test split."""

import json

from absl import flags

from resnet_jax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "A table for people, or one line of JSON.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps data, if not where it was in training.")
flags.mark_flag_as_required("workdir")


def run() -> int:
    from resnet_jax import parallel
    from resnet_jax.data.sources import open_dataset
    from resnet_jax.evaluation.evaluate import score_run
    from resnet_jax.run import load_run
    from resnet_jax.terminal import ProgressLine, scores_table

    trained = load_run(WORKDIR.value)
    dataset = trained.config.dataset
    progress = ProgressLine(active=FORMAT.value == "text" and parallel.is_main_process())
    if dataset.test_split == "none":
        raise UserError("this run has no test split (dataset.test_split is 'none'), so there is nothing to score")
    sources = open_dataset(dataset.name, DATA_DIR.value or dataset.data_dir)
    scores = score_run(trained, sources, dataset.test_split, progress.counter("reading examples"))
    if FORMAT.value == "json" and parallel.is_main_process():
        print(json.dumps({"split": dataset.test_split, "checkpoint_step": trained.step, **scores}))
    else:
        progress.print(f"{scores_table({dataset.test_split: scores})}\n\nCheckpoint of step {trained.step:,}.")
    return 0
