"""Score the chosen checkpoint of a run, or published weights, on the test split or on another."""

import json

from absl import flags

from resnet_jax.errors import UserError
from resnet_jax.verbs import processes
from resnet_jax.verbs.subject import CONFIG, WORKDIR, check_flags

FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "A table for people, or one line of JSON.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data is, if not where it was in training.")
SPLIT = flags.DEFINE_string("split", None, "Such as val or train[:1000]; unset: the run's test split.")
EVAL_RESIZE = flags.DEFINE_integer("eval_resize", None, "Another dataset.eval_resize, such as for a higher resolution.")
EVAL_CROP = flags.DEFINE_integer("eval_crop", None, "Another dataset.eval_crop.")


def run() -> int:
    from resnet_jax import parallel
    from resnet_jax.data import feeds
    from resnet_jax.data.sources import open_dataset
    from resnet_jax.data.unreadable import UnreadablePictures
    from resnet_jax.evaluation.evaluate import score_run
    from resnet_jax.from_weights import load_pretrained
    from resnet_jax.init_from import open_pretrained
    from resnet_jax.run import load_run
    from resnet_jax.terminal import ProgressLine, scores_table

    check_flags("evaluate")
    processes.join()
    trained = load_run(WORKDIR.value) if WORKDIR.value else None
    dataset = (trained.config if trained else CONFIG.value).dataset
    progress = ProgressLine(active=FORMAT.value == "text" and parallel.is_main_process())
    dataset.eval_resize = EVAL_RESIZE.value or dataset.eval_resize
    dataset.eval_crop = EVAL_CROP.value or dataset.eval_crop
    feeds.check(dataset)
    found = None if trained else open_pretrained(CONFIG.value.init_from)
    sources = open_dataset(dataset.name, DATA_DIR.value or dataset.data_dir)
    trained = trained or load_pretrained(CONFIG.value, found, sources, SPLIT.value)
    split = SPLIT.value or trained.config.dataset.test_split
    if split == "none":
        raise UserError("this run has no test split: name another, such as --split=val")
    unreadable = UnreadablePictures(dataset.max_unreadable, progress.warn)
    scores = score_run(trained, sources, split, unreadable, progress.counter("reading examples"))
    if FORMAT.value == "json" and parallel.is_main_process():
        print(json.dumps({"split": split, "checkpoint_step": trained.step, **scores}))
    else:
        of = CONFIG.value.init_from if trained.step is None else f"Checkpoint of step {trained.step:,}"
        progress.print(f"{scores_table({split: scores})}\n\n{of}.")
    return 0
