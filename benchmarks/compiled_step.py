"""Memory, FLOPs and collectives of train steps, compiled for eight simulated CPU devices and for a TPU slice.

    python -m benchmarks.compiled_step

The TPU, by default a v5e:2x4, need not be present; without libtpu it is left out. The results are those of
`python main.py benchmark --collectives --format=json`; docs/scaling.md explains them.
"""

import importlib.util

from absl import app, flags, logging

from benchmarks import results, run_program

CASES = flags.DEFINE_list(
    "cases",
    ["cifar10.py:resnet20:128", "cifar10.py:resnet18:512", "imagenet.py::1024"],
    "A list of recipe:model:batch_size. If the model is empty, the recipe's default is used.",
)
SLICE = flags.DEFINE_string("slice", "v5e:2x4", "TPU slice to compile for.")
DTYPES = ("float32", "bfloat16")
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    slices = [None]  # None: the simulated CPU devices
    if importlib.util.find_spec("libtpu"):
        slices.append(SLICE.value)
    analyses = [
        {"dtype": dtype, "slice": tpu_slice, **_analyze(*case.split(":"), dtype, tpu_slice)}
        for tpu_slice in slices
        for case in CASES.value
        for dtype in DTYPES
    ]
    results.add("compiled_step", figures=analyses)


def _analyze(recipe: str, model: str, batch_size: str, dtype: str, tpu_slice: str | None) -> dict:
    name = f"configs/{recipe}:{model}" if model else f"configs/{recipe}"
    arguments = [f"--config={name}", f"--config.batch_size={batch_size}", f"--config.model.dtype={dtype}"]
    if tpu_slice:
        arguments.append(f"--compile_for={tpu_slice}")
    environment = {"XLA_FLAGS": EIGHT_DEVICES, "JAX_PLATFORMS": "cpu"}
    return run_program.run_command("benchmark", "--collectives", *arguments, **environment)


if __name__ == "__main__":
    app.run(main)
