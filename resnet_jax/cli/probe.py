"""Measure what the features of a model are worth, with a linear classifier and with nearest neighbors.

    python main.py probe --workdir=/tmp/pretrained
    python main.py probe --workdir=/tmp/pretrained --config=configs/cifar10.py /tmp/supervised

The features are the inputs of the head, which stay fixed. The regularization of the classifier is chosen on validation,
and the test split is scored once. The same model with random weights, and any further run, serve as references.

With `--format=json`, the keys are `dataset`, `splits` and `results`, a list with the fields of
`evaluation.probe.ProbeResult`.
"""

import dataclasses
import json

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

ARGUMENTS = "more workdirs, whose features are probed as references"
WORKDIR = shared_flags.define_workdir("The run directory, of a pre-trained or any other model.")
CONFIG = shared_flags.define_config(
    "A recipe whose dataset has the labels; unset: the dataset of the run.", required=False
)
FORMAT = shared_flags.define_format()
DATA_DIR = shared_flags.define_data_dir("The location of the labeled data, if it has moved.")
FRACTIONS = flags.DEFINE_list("fractions", ["1", "0.1", "0.01"], "Shares of the training labels to use.")


def run(workdirs: list[str]) -> ExitCode:
    from resnet_jax import config as settings
    from resnet_jax import config_check
    from resnet_jax.data import splits
    from resnet_jax.data.sources import canonical_name, open_sources
    from resnet_jax.evaluation import probe
    from resnet_jax.evaluation.model_comparison import check_distinct
    from resnet_jax.terminal import Reporter, print_result
    from resnet_jax.trained_model import load_run

    fractions = [_parse_fraction(text) for text in FRACTIONS.value]
    names = [WORKDIR.value, *workdirs]
    check_distinct(names)
    models = {name: load_run(name, calibrated=False) for name in names}
    own = models[WORKDIR.value].config.dataset
    if CONFIG.value is None:
        dataset = settings.default().dataset
        dataset.name, dataset.data_dir = own.name, own.data_dir
        dataset.max_unreadable = own.max_unreadable
        dataset.train_split = own.train_split
        for purpose in ("validation", "test"):
            split = own[f"{purpose}_split"]
            dataset[f"{purpose}_split"] = "" if split == splits.NO_SPLIT else split
    else:
        config_check.check(CONFIG.value)
        dataset = CONFIG.value.dataset
        dataset.name = canonical_name(dataset.name)
    # Do not load another dataset into memory to read its labels, because its images may differ in size.
    dataset.feed = own.feed if dataset.name == own.name else "streaming"
    with Reporter(active=FORMAT.value == "text", max_unreadable=dataset.max_unreadable) as reporter:
        sources = open_sources(dataset.name, DATA_DIR.value or dataset.data_dir)
        results = probe.probe(models, dataset, sources, reporter, fractions)
    if FORMAT.value == "json":
        used = {purpose: dataset[f"{purpose}_split"] for purpose in ("train", "validation", "test")}
        values = {"dataset": dataset.name, "splits": used, "results": list(map(dataclasses.asdict, results))}
        print_result(json.dumps(values))
    else:
        print_result(probe.format_results(results))
    return ExitCode.DONE


def _parse_fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise UserError(f"--fractions ({text}) must be numbers above 0 and at most 1, such as 1,0.1.")
    return fraction
