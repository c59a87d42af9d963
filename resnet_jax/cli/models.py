"""List the models: their cost, paper and published accuracy; or, with `--pretrained`, their public weights.

With `--format=json`, the output is `{"models": [...]}` with an object per model: `name`, `parameters`, `multiply_adds`
of one image, and the fields of `models.variants.Variant` except `make`; `top1` is in [0, 1] or null. With
`--pretrained`, it is `{"weights": [...]}` with an object per row of the table of public weights: `model` and the fields
of `models.public_weights.PublicWeights`. The first weights of a model are its default.
"""

import dataclasses
import itertools
import json

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode

FORMAT = shared_flags.define_format()
FILTER = flags.DEFINE_string("filter", "", "List only models whose names contain this, such as se or wide*_2.")
PRETRAINED = flags.DEFINE_bool(
    "pretrained",
    False,
    "List the public weights of each model, the default first: their published top-1, the size of its images, the "
    "short side before the center crop, and the license.",
)


def run() -> ExitCode:
    from resnet_jax.models.factory import list_models
    from resnet_jax.terminal import print_result

    names = list_models(FILTER.value, PRETRAINED.value)
    if PRETRAINED.value:
        rows = _weights(names)
        print_result(json.dumps({"weights": rows}) if FORMAT.value == "json" else _table_of_weights(rows))
    else:
        rows = _models(names)
        print_result(json.dumps({"models": rows}) if FORMAT.value == "json" else _table(rows))
    return ExitCode.DONE


def _models(names: list[str]) -> list[dict]:
    """Return a row for each model, with its cost."""
    from resnet_jax.models.flops import cost
    from resnet_jax.models.variants import VARIANTS
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter

    parallel.all_devices()  # JAX needs one even to trace a model.
    rows = []
    with Reporter(active=FORMAT.value == "text") as reporter:
        show_progress = reporter.counter("tracing models")
        for done, name in enumerate(names, start=1):
            variant = VARIANTS[name]
            costs = cost(variant.make(num_classes=variant.num_classes), (variant.image_size, variant.image_size, 3))
            row = {"name": name, **vars(costs), **vars(variant)}
            del row["make"]
            rows.append(row)
            show_progress(done, len(names))
    return rows


def _weights(names: list[str]) -> list[dict]:
    """Return a row for each of the public weights of these models."""
    from resnet_jax.models.public_weights import PUBLIC_WEIGHTS

    return [{"model": name, **dataclasses.asdict(weights)} for name in names for weights in PUBLIC_WEIGHTS[name]]


def _table_of_weights(rows: list[dict]) -> str:
    from resnet_jax.terminal import table

    cells = [
        (
            row["model"],
            row["tag"],
            "" if row["top1"] is None else f"{row['top1']:.2%}",
            row["image_size"],
            row["eval_resize"],
            row["license"],
            row["hub_id"],
        )
        for row in rows
    ]
    return table(cells, ("model", "weights", "top-1", "image size", "resize", "license", "on huggingface.co"))


def _table(rows: list[dict]) -> str:
    """Return a table with a heading for each group of models from the same paper."""
    from resnet_jax.terminal import table

    cells = [
        (
            row["name"],
            row["parameters"],
            round(row["multiply_adds"] / 1e6),
            "" if row["top1"] is None else f"{row['top1']:.2%}",
            row["top1_source"],
        )
        for row in rows
    ]
    column_names = ("model", "parameters", "million multiply-adds", "top-1", "as published by")
    header, rule, *lines = table(cells, column_names).split("\n")
    text = [header, rule]
    for heading, group in itertools.groupby(zip(rows, lines, strict=True), lambda pair: _heading(pair[0])):
        text += ["", heading, *(line for _, line in group)]
    return "\n".join(text)


def _heading(row: dict) -> str:
    return f"{row['paper']} ({row['dataset']}, {row['image_size']} x {row['image_size']} pixels)"
