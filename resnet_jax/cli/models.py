"""List the models: their cost, paper and published accuracy.

With `--format=json`, the output is `{"models": [...]}` with an object per model: `name`, `parameters`, `multiply_adds`
of one image, and the fields of `models.variants.Variant` except `make`; `top1` is in [0, 1] or null.
"""

import itertools
import json

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode

FORMAT = shared_flags.define_format()
FILTER = flags.DEFINE_string("filter", "", "List only models whose names contain this, such as se or wide*_2.")


def run() -> ExitCode:
    from resnet_jax.models.factory import list_models
    from resnet_jax.models.flops import cost
    from resnet_jax.models.variants import VARIANTS
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter, print_result

    parallel.all_devices()  # JAX needs one even to trace a model.
    names = list_models(FILTER.value)
    rows = []
    with Reporter(active=FORMAT.value == "text") as reporter:
        for done, name in enumerate(names):
            reporter.counter("tracing models")(done, len(names))
            variant = VARIANTS[name]
            costs = cost(variant.make(num_classes=variant.num_classes), (variant.image_size, variant.image_size, 3))
            row = {"name": name, **vars(costs), **vars(variant)}
            del row["make"]
            rows.append(row)
    print_result(json.dumps({"models": rows}) if FORMAT.value == "json" else _table(rows))
    return ExitCode.DONE


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
