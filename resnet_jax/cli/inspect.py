"""Check every image of a dataset before training: what it contains, and what would spoil a run.

    python main.py inspect --config=configs/folder.py
    python main.py inspect --labels=/tmp/folds             # after `repeat --folds`: which labels are probably wrong

With `--format=json`, the keys are the fields of `data.inspect.inspection.Inspection`, and `contact_sheet`, the path of
the image that is written, or null. The exit code is 1 if something would spoil a run. With --labels, the keys are
`examples`, the number of labels, `doubtful` (a list with the fields of `studies.label_errors.DoubtfulLabel`, the most
doubtful first) and `contact_sheet`.
"""

import dataclasses
import json

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

CONFIG = shared_flags.define_config("The recipe, such as configs/folder.py.", required=False)
LABELS = flags.DEFINE_string(
    "labels",
    None,
    "In place of --config: the directory of a study of folds, or of a run with validation examples. Its models say "
    "which labels of the examples held out from them are probably wrong.",
)
DATA_DIR = shared_flags.define_data_dir()
FORMAT = shared_flags.define_format()
CONTACT_SHEET = flags.DEFINE_string(
    "contact_sheet", "contact_sheet.png", "The PNG file to write, with example images of each class."
)


def run() -> ExitCode:
    if (CONFIG.value is None) == (LABELS.value is None):
        raise UserError("inspect takes either --config or --labels. Give exactly one of the two.")
    if LABELS.value is None and DATA_DIR.value:
        raise UserError("--data_dir has no effect with --config. Set --config.dataset.data_dir.")
    return _inspect_dataset() if LABELS.value is None else _inspect_labels(LABELS.value)


def _inspect_labels(workdir: str) -> ExitCode:
    from resnet_jax import files
    from resnet_jax.studies import label_errors
    from resnet_jax.studies.out_of_fold import predict_held_out
    from resnet_jax.studies.study import finished_runs
    from resnet_jax.terminal import Reporter, print_result

    files.check_target(CONTACT_SHEET.value, *label_errors.TARGET)
    with Reporter(active=FORMAT.value == "text") as reporter:
        predictions = predict_held_out(finished_runs([workdir]), reporter, DATA_DIR.value)
    indices, doubtful = label_errors.find_doubtful_labels(predictions)
    sheet = label_errors.write_contact_sheet(CONTACT_SHEET.value, predictions, indices)
    num_examples = len(predictions.labels)
    if FORMAT.value == "json":
        values = {"examples": num_examples, "doubtful": list(map(vars, doubtful)), "contact_sheet": sheet}
        print_result(json.dumps(values))
    else:
        print_result(label_errors.format_doubtful_labels(doubtful, num_examples, sheet))
    return ExitCode.DONE


def _inspect_dataset() -> ExitCode:
    from resnet_jax.data import feed_config
    from resnet_jax.data.inspect import contact_sheet, summary
    from resnet_jax.data.inspect.inspection import inspect
    from resnet_jax.data.inspect.plan import make_plan
    from resnet_jax.data.inspect.scan import scan_images
    from resnet_jax.data.sources import open_sources
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter, print_result
    from resnet_jax.training import experiment, pretraining

    config = CONFIG.value
    mesh = parallel.make_mesh()
    experiment.check(config, mesh)
    contact_sheet.check(CONTACT_SHEET.value)
    sources = open_sources(config.dataset.name, config.dataset.data_dir)
    if config.pretrain.method is not None:
        sources = pretraining.without_labels(config.dataset, sources)
    if any(getattr(source, "label_sets", None) is not None for source in sources.values()):
        raise UserError(
            "inspect checks images with one label each, and these have any number of labels. Train without it."
        )
    with Reporter(active=FORMAT.value == "text" and parallel.is_main_process()) as reporter:
        num_workers = feed_config.num_workers(config.dataset)
        scanned = scan_images(sources, num_workers, reporter, config.dataset.bit_depth, config.dataset.train_split)
        plan = make_plan(config, scanned, mesh)
        inspection = inspect(config, sources, scanned, plan)
    if parallel.is_main_process():
        sheet = contact_sheet.write(CONTACT_SHEET.value, scanned, plan.train)
        if FORMAT.value == "json":
            print_result(json.dumps({**dataclasses.asdict(inspection), "contact_sheet": sheet}))
        else:
            print_result(summary.report(inspection, sheet))
    return ExitCode.SOME_FAILED if inspection.would_spoil else ExitCode.DONE
