"""Score the chosen checkpoint of a run, or published weights, on the test split, another split or other data.

With more workdirs, the models are compared: metrics of each model, McNemar's test for each pair, and the metrics of
their ensemble. The directory of a study (see `repeat` and `sweep`) stands for all of its finished runs.

With `--format=json`, the keys are:

name                  as given on the command line
split                 the split that is scored
workdir               the run directory; null for published weights
checkpoint_step       the number of steps taken before the checkpoint; null for published weights
temperature           the divisor of the logits; 1.0 unless the run is calibrated
tta                   `{"flip": ...}`, the same metrics with test-time augmentation; null without `--tta`

and the fields of `evaluation.metrics.ClassificationReport`, with those of its `means` at the top level.

For any number of labels per image, the fields of `evaluation.multi_label.MultiLabelReport` take their place, and there
is no `temperature`.

For several models, the keys are `split`, `runs` (a list of such objects), `ensemble` (the metrics of the ensemble) and
`comparisons` (a list with one object per pair: the fields of `evaluation.model_comparison.McNemar`, and the names
`first` and `second` of the models). With any number of labels per image, there are only `split` and `runs`.
"""

import json

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

ARGUMENTS = "more workdirs, to compare with --workdir"
MODEL = shared_flags.ModelFlags()
FORMAT = shared_flags.define_format()
DATA_DIR = shared_flags.define_data_dir()
CLUSTER = shared_flags.ClusterFlags()
SPLIT = flags.DEFINE_string(
    "split",
    None,
    "validation (the dataset's split of that name, or else the examples on which the run was validated), or a split "
    "such as train[:1000]; unset: the test split, or the only split of --dataset.",
)
DATASET = flags.DEFINE_string(
    "dataset", None, "Another dataset, such as folder:PATH, whose classes are some or all of the model's."
)
TTA = flags.DEFINE_enum(
    "tta",
    None,
    ["flip", "mirror_translate"],
    "Add metrics with test-time augmentation: the mean logits of each image and its mirror image (flip), or also of "
    "both moved by a pixel (mirror_translate).",
)
EVAL_RESIZE = flags.DEFINE_integer(
    "eval_resize", None, "Override dataset.eval_resize, to test another resolution.", lower_bound=1
)
CALIBRATE = flags.DEFINE_bool(
    "calibrate",
    False,
    "First fit a temperature to the validation examples of the run and store it in the run directory, so that all "
    "commands give calibrated probabilities.",
)
EVAL_CROP = flags.DEFINE_integer("eval_crop", None, "Override dataset.eval_crop.", lower_bound=1)


def run(workdirs: list[str]) -> ExitCode:
    from resnet_jax.evaluation.model_comparison import Evaluator
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter, print_result

    MODEL.check("evaluate")
    CLUSTER.join()
    with Reporter(active=FORMAT.value == "text" and parallel.is_main_process()) as reporter:
        if CALIBRATE.value:
            _calibrate(workdirs, reporter)
        models = _load(workdirs)
        evaluator = Evaluator.open(models, reporter, SPLIT.value, DATASET.value, DATA_DIR.value)
        values, text = _score(evaluator) if evaluator.subset.label_sets is None else _score_multi_label(evaluator)
    if not parallel.is_main_process():
        return ExitCode.DONE
    if FORMAT.value == "json":
        print_result(json.dumps(values))
    else:
        scored = ", ".join(_describe(name, model) for name, model in models.items())
        # Of the split, on all processes. The reporter also counts the images that --calibrate could not read.
        unreadable = values.get("runs", [values])[0]["unreadable"]
        note = f" {unreadable:,} examples could not be read and were left out." if unreadable else ""
        print_result(f"{text}\n\nScored: {scored}.{note}")
    return ExitCode.DONE


def _score(evaluator) -> tuple[dict, str]:
    """Score models for one label per image, and return the result as JSON values and as text."""
    from resnet_jax.evaluation.model_comparison import as_json, compare
    from resnet_jax.evaluation.tables import format_comparison

    comparison = compare(evaluator, TTA.value)
    return as_json(comparison, evaluator.models), format_comparison(comparison)


def _score_multi_label(evaluator) -> tuple[dict, str]:
    """Do what `_score` does, for any number of labels per image."""
    from resnet_jax.evaluation.multi_label_comparison import as_json, compare, format_comparison

    comparison = compare(evaluator, TTA.value)
    return as_json(comparison, evaluator.models), format_comparison(comparison)


def _calibrate(workdirs: list[str], reporter) -> None:
    """Fit and store the temperature of each run."""
    from resnet_jax.evaluation import calibration
    from resnet_jax.runtime import parallel
    from resnet_jax.studies.study import finished_runs

    if not MODEL.workdir.value:
        raise UserError("--calibrate needs the run directory in which to store the temperature. Give --workdir.")
    for workdir in finished_runs([MODEL.workdir.value, *workdirs]):
        fitted = calibration.calibrate_run(workdir, reporter, None if DATASET.value else DATA_DIR.value)
        reporter.print(f"Calibrated {workdir}: {calibration.describe(fitted)}\n")
    parallel.wait_for_all("calibrated")  # The other processes read the file that the main process has written.


def _describe(name: str, model) -> str:
    """Return which model was scored, such as "step 600 of /tmp/digits"."""
    step = "" if model.step is None else f"step {model.step:,} of "
    return f"{step}{name}" if model.temperature == 1 else f"{step}{name} (temperature {model.temperature:.4g})"


def _load(workdirs: list[str]) -> dict:
    """Return the trained models: runs by workdir, published weights by the name of their file."""
    from resnet_jax.evaluation.model_comparison import check_distinct
    from resnet_jax.pretrained.load import address_of_initial_weights
    from resnet_jax.studies.study import finished_runs
    from resnet_jax.trained_model import load_run

    if MODEL.config.value:
        _override_resolution(MODEL.config.value.dataset)
        # With --dataset, these two flags are about that dataset, not about the one of --config.
        split, data_dir = (None, None) if DATASET.value else (SPLIT.value, DATA_DIR.value)
        models = {address_of_initial_weights(MODEL.config.value): MODEL.load(split, data_dir)}
        workdirs = finished_runs(workdirs)
    else:
        models = {}
        workdirs = finished_runs([MODEL.workdir.value, *workdirs])
    check_distinct([*models, *workdirs])
    models |= {workdir: load_run(workdir) for workdir in workdirs}
    for model in models.values():
        _override_resolution(model.config.dataset)
    return models


def _override_resolution(dataset) -> None:
    """Apply --eval_resize and --eval_crop to the settings of a dataset. Only streamed images can be resized."""
    from resnet_jax.data import feed_config

    dataset.eval_resize = EVAL_RESIZE.value or dataset.eval_resize
    dataset.eval_crop = EVAL_CROP.value or dataset.eval_crop
    feed_config.check(dataset)
