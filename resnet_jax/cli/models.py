"""List the models: what each costs, where it comes from, and what accuracy is published for it.

With `--format=json` the line is `{"models": [...]}`, an object for each: `name`, `parameters`, `multiply_adds` of one
picture, and the fields of `models.variants.Variant`, with `top1` in [0, 1] or null.
"""

import itertools
import json

from absl import flags

FILTER = flags.DEFINE_string("filter", "", "Only models with this in their names, such as se, or wide*_2.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "A table for people, or one line of JSON.")


def run() -> int:
    from resnet_jax.models.factory import matching
    from resnet_jax.models.flops import cost
    from resnet_jax.models.variants import VARIANTS
    from resnet_jax.terminal import Reporter

    reporter, rows, names = Reporter(active=FORMAT.value == "text"), [], matching(FILTER.value)
    for done, name in enumerate(names):
        reporter.counter("tracing models")(done, len(names))
        variant = VARIANTS[name]
        costs = cost(variant.make(num_classes=variant.num_classes), (variant.image_size, variant.image_size, 3))
        rows.append({"name": name, **vars(costs), **vars(variant)})
        del rows[-1]["make"]
    if FORMAT.value == "json":
        print(json.dumps({"models": rows}))
    else:
        reporter.print(_text(rows))
    return 0


def _text(rows: list[dict]) -> str:
    """A table with a line above the models of each paper."""
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
    header, rule, *lines = table(
        cells, ("model", "parameters", "million multiply-adds", "top-1", "as published by")
    ).split("\n")
    text = [header, rule]
    for paper, group in itertools.groupby(zip(rows, lines, strict=True), lambda pair: _about(pair[0])):
        text += ["", paper, *(line for _, line in group)]
    return "\n".join(text)


def _about(row: dict) -> str:
    return f"{row['paper']} ({row['dataset']}, {row['image_size']} x {row['image_size']} pixels)"
