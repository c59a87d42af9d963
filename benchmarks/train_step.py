"""Train steps a second: ours, that of Flax's examples, and PyTorch's, on the same machine, taking turns.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --cases=resnet20:float32:128 --contestants=ours,torch_eager

What they do is in `contestants.py` and `pytorch.py`. Each has a process of its own. They take turns in rounds of about
`--seconds` each; figures are medians over the rounds. PyTorch takes part where it is installed. The peak is that of the
quickest product of two large matrices in the type of the case, by XLA, or what a TPU is specified with.
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
from resnet_jax.training.experiment import MOST_STEPS_PER_CALL

CASES = flags.DEFINE_list(
    "cases", None, "network:dtype:batch_size, ...; unset: ResNet-20, 18 and 50 in both types, in sizes for this device."
)
CONTESTANTS = flags.DEFINE_list("contestants", None, "Of contestants.py and pytorch.py; unset: all that can take part.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "In each of which every contestant has its turn.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 3.0, "Of a turn, at least one call.", lower_bound=0.0)

BATCH_SIZES = {"resnet20": (128, 128), "resnet18": (64, 512), "resnet50": (16, 256)}  # on a CPU and on others
TYPES = ("float32", "bfloat16")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    cases = [case.split(":") for case in CASES.value or _cases()]
    names = CONTESTANTS.value or _contestants()
    for network, dtype, batch_size in cases:
        compare(names, network, dtype, int(batch_size))


def compare(names: list[str], network: str, dtype: str, batch_size: int) -> None:
    """Has contestants take turns on one case, and adds a line to the results."""
    # At least a whole call.
    warm_up = {name: MOST_STEPS_PER_CALL if name == "many_steps_a_call" else 2 for name in names}
    taking_part = turns.take(warm_up, (network, dtype, str(batch_size)), ROUNDS.value, SECONDS.value)
    per_step = {contestant.name: statistics.median(contestant.seconds) for contestant in taking_part}
    model = contestants.make_model(network, dtype)
    flops = 6.0 * batch_size * cost(model, (contestants.SIDES[network],) * 2 + (3,)).multiply_adds
    peak = peak_of(jax.devices()[0], dtype)
    figures = [
        {
            "contestant": contestant.name,
            "loss": contestant.loss,
            "ms": 1e3 * per_step[contestant.name],
            "images_per_second": batch_size / per_step[contestant.name],
            "tflops_per_second": flops / per_step[contestant.name] / 1e12,
            "of_peak": flops / per_step[contestant.name] / peak.flops,
            "seconds": contestant.seconds,
        }
        for contestant in taking_part
    ]
    case = {"network": network, "dtype": dtype, "batch_size": batch_size, "rounds": ROUNDS.value}
    compared = {"torch": _torch_version(), "peak": dataclasses.asdict(peak), "figures": figures}
    results.add("train_step", **case, cpu_is_tuned="as the contestants say", **compared)


def _cases() -> list[str]:
    sizes = {network: sizes[not _on_cpu()] for network, sizes in BATCH_SIZES.items()}
    return [f"{network}:{dtype}:{size}" for network, size in sizes.items() for dtype in TYPES]


def _contestants() -> list[str]:
    """`ours` first; on a CPU a loop around convolutions is slow, so no run takes many steps in a call there."""
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
