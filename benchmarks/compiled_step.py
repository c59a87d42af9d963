"""What compiled train steps take: memory, FLOPs and what devices exchange, here and on TPUs that need not be there.

    python -m benchmarks.compiled_step        # for v5e:2x4 too, where libtpu is installed

Each figure is from `python main.py benchmark --collectives --format=json`, which says what it means.
"""

import importlib.util

from absl import app, flags, logging

from benchmarks import program, results

CASES = flags.DEFINE_list(
    "cases",
    ["cifar10.py:resnet20:128", "cifar10.py:resnet18:512", "imagenet.py::1024"],
    "recipe:model:batch_size, ...; no model: the recipe's own.",
)
SLICE = flags.DEFINE_string("slice", "v5e:2x4", "Of TPUs.")
TYPES = ("float32", "bfloat16")
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    slices = [None, SLICE.value] if importlib.util.find_spec("libtpu") else [None]
    figures = [
        {"dtype": dtype, "slice": on, **_analysis(*case.split(":"), dtype, on)}
        for on in slices
        for case in CASES.value
        for dtype in TYPES
    ]
    results.add("compiled_step", figures=figures)


def _analysis(recipe: str, model: str, batch_size: str, dtype: str, on: str | None) -> dict:
    name = f"configs/{recipe}:{model}" if model else f"configs/{recipe}"
    settings = (f"--config={name}", f"--config.batch_size={batch_size}", f"--config.model.dtype={dtype}")
    place = (f"--compile_for={on}",) if on else ()
    environment = {"XLA_FLAGS": EIGHT_DEVICES, "JAX_PLATFORMS": "cpu"}
    return program.answer("benchmark", "--collectives", *settings, *place, **environment)


if __name__ == "__main__":
    app.run(main)
