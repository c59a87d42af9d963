"""Speed of train steps: ours, one in the style of Flax's examples, and PyTorch's, in turns on the same machine.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --cases=resnet20:float32:128 --contestants=ours,torch_eager

`contestants.py` and `pytorch.py` describe the contestants, each of which has its own process. They take turns of about
`--seconds` in each round, and the results are medians over the rounds. PyTorch takes part if it is installed. The peak
speed is the specified one for a TPU; elsewhere, it is that of the fastest product of two large matrices in the dtype of
the case, computed by XLA.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import statistics

import jax
from absl import app, flags, logging

from benchmarks import contestants, results, turns
from resnet_jax.diagnostics.throughput import peak_of
from resnet_jax.models.flops import cost
from resnet_jax.training.experiment import MAX_STEPS_PER_CALL

CASES = flags.DEFINE_list(
    "cases",
    None,
    "A list of model:dtype:batch_size. Default: the models of BATCH_SIZES in both dtypes, with batch sizes for this "
    "device.",
)
CONTESTANTS = flags.DEFINE_list(
    "contestants", None, "Functions of contestants.py and pytorch.py. Default: all that can take part."
)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, in which each contestant has one turn.", lower_bound=1)
SECONDS = flags.DEFINE_float(
    "seconds", 3.0, "Approximate seconds per turn. A turn has at least one call.", lower_bound=0.0
)

# batch sizes on a CPU, and on other devices
BATCH_SIZES = {"resnet20": (128, 128), "resnet18": (64, 512), "airbench94": (512, 512), "resnet50": (16, 256)}
DTYPES = ("float32", "bfloat16")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    names = CONTESTANTS.value or _default_contestants()
    for case in CASES.value or _default_cases():
        model_name, dtype, batch_size = case.split(":")
        compare(names, model_name, dtype, int(batch_size))


def compare(names: list[str], model_name: str, dtype: str, batch_size: int) -> None:
    """Let the contestants called `names` take turns on one case, and add a line to the results."""
    # A contestant with several steps per call needs at least one whole call.
    warm_up = {name: MAX_STEPS_PER_CALL if name == "many_steps_a_call" else 2 for name in names}
    measured = turns.take_turns(warm_up, (model_name, dtype, str(batch_size)), ROUNDS.value, SECONDS.value)
    seconds_per_step = {contestant.name: statistics.median(contestant.seconds) for contestant in measured}
    model = contestants.make_model(model_name, dtype)
    size = contestants.IMAGE_SIZES[model_name]
    flops = 6.0 * batch_size * cost(model, (size, size, 3)).multiply_adds
    peak = peak_of(jax.devices()[0], dtype)
    figures = [
        {
            "contestant": contestant.name,
            "loss": contestant.loss,
            "ms": 1e3 * seconds_per_step[contestant.name],
            "images_per_second": batch_size / seconds_per_step[contestant.name],
            "tflops_per_second": flops / seconds_per_step[contestant.name] / 1e12,
            "of_peak": flops / seconds_per_step[contestant.name] / peak.flops,
            "seconds": contestant.seconds,
        }
        for contestant in measured
    ]
    results.add(
        "train_step",
        network=model_name,
        dtype=dtype,
        batch_size=batch_size,
        rounds=ROUNDS.value,
        cpu_is_tuned="as the contestants say",
        torch=_torch_version(),
        peak=dataclasses.asdict(peak),
        figures=figures,
    )


def _default_cases() -> list[str]:
    sizes = {name: on_cpu if _on_cpu() else elsewhere for name, (on_cpu, elsewhere) in BATCH_SIZES.items()}
    return [f"{name}:{dtype}:{size}" for name, size in sizes.items() for dtype in DTYPES]


def _default_contestants() -> list[str]:
    """Return the names of the contestants that can take part, `ours` first.

    `many_steps_a_call` takes part only off the CPU, because convolutions in a loop are slow on a CPU. The CPU tunings
    take part only on a CPU.
    """
    variants = ["ours_without_ynnpack", "ours_keeping_memory", "ours_untuned"] if _on_cpu() else ["many_steps_a_call"]
    names = ["ours", *variants, "plain"]
    return names + (["torch_eager", "torch_compile"] if _torch_version() else [])


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _torch_version() -> str | None:
    return importlib.metadata.version("torch") if importlib.util.find_spec("torch") else None


if __name__ == "__main__":
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # The contestants share a GPU's memory.
    app.run(main)
