"""Score the chosen checkpoint of a run, or published weights, on the test split, on another one, or on other data.

With further workdirs the networks are compared: figures of each, McNemar's test for each pair, and their ensemble.

With `--format=json` the line has `name`, as it was named here, `split`, `workdir` and `checkpoint_step` (null for
published weights), and the fields of `evaluation.assessment.Assessment`, with those of its `scores` among them; `tta`
has the same figures with test-time augmentation, by its name, or is null. For several networks, `runs` is a list of
these, `ensemble` has its figures, and `comparisons` the fields of `evaluation.comparison.McNemar`, with the names
`first` and `second`.
"""

import json

from absl import flags

from resnet_jax.cli import cluster_flags, model_flags
from resnet_jax.cli.model_flags import CONFIG, WORKDIR

ARGUMENTS = "further workdirs, to be compared with --workdir"
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "Tables for people, or one line of JSON.")
DATASET = flags.DEFINE_string("dataset", None, "Another data set with classes of the same names: folder:PATH, ...")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data is, if not where it was in training.")
SPLIT = flags.DEFINE_string("split", None, "validation: the run's own; or train[:1000], ...; unset: the test split.")
TTA = flags.DEFINE_enum("tta", None, ["flip"], "Adds figures with test-time augmentation: mirrored pictures too.")
EVAL_RESIZE = flags.DEFINE_integer("eval_resize", None, "Another dataset.eval_resize, such as for a higher resolution.")
EVAL_CROP = flags.DEFINE_integer("eval_crop", None, "Another dataset.eval_crop.")


def run(workdirs: list[str]) -> int:
    from resnet_jax.evaluation import tables
    from resnet_jax.evaluation.model_comparison import Trial, as_json, judge
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter

    model_flags.check_flags("evaluate")
    cluster_flags.join()
    reporter = Reporter(active=FORMAT.value == "text" and parallel.is_main_process())
    networks = _load(workdirs)
    with reporter:
        trial = Trial.open(networks, reporter, SPLIT.value, DATASET.value, DATA_DIR.value)
        results = judge(trial, TTA.value)
    steps = {name: network.step for name, network in networks.items()}
    if FORMAT.value == "text":
        of = [name if step is None else f"step {step:,} of {name}" for name, step in steps.items()]
        unread = len(reporter.unreadable)
        more = f" {unread:,} more examples could not be read." if unread else ""
        reporter.print(f"{tables.report(results)}\n\nScored: {', '.join(of)}.{more}")
    elif parallel.is_main_process():
        print(json.dumps(as_json(results, steps)))
    return 0


def _load(workdirs: list[str]) -> dict:
    """The networks by workdir, weights by their file."""
    from resnet_jax.evaluation.model_comparison import check_distinct
    from resnet_jax.trained_model import load_run

    if CONFIG.value:
        _resize(CONFIG.value.dataset)
        split = None if DATASET.value else SPLIT.value
        networks = {CONFIG.value.init_from: model_flags.load(split, DATA_DIR.value)}
    else:
        networks = {WORKDIR.value: model_flags.load()}
    check_distinct([*networks, *workdirs])
    networks |= {workdir: load_run(workdir) for workdir in workdirs}
    for network in networks.values():
        _resize(network.config.dataset)
    return networks


def _resize(dataset) -> None:
    """Has pictures that are streamed evaluated in the size that the flags say."""
    from resnet_jax.data import feed_config

    dataset.eval_resize = EVAL_RESIZE.value or dataset.eval_resize
    dataset.eval_crop = EVAL_CROP.value or dataset.eval_crop
    feed_config.check(dataset)
