"""Milliseconds for a convolution and for its gradient to the kernel, by XLA and as one product of matrices, on a CPU.

    python -m benchmarks.kernel_gradient

The layers are those of ResNet-20 (batch 128), ResNet-18 with the CIFAR stem (64) and ResNet-50 (16), with what a run
sets for the CPU. The three take turns; figures are medians over the rounds.
"""

import functools
import statistics
import time

from absl import app, flags

ROUNDS = flags.DEFINE_integer("rounds", 7, "Of which the median is taken.", lower_bound=1)

# Batch, side in pixels, channels, features, kernel, stride.
LAYERS = (
    *((128, 32, 3, 16, 3, 1), (128, 32, 16, 16, 3, 1), (128, 32, 16, 32, 3, 2), (128, 16, 32, 32, 3, 1)),
    *((128, 8, 64, 64, 3, 1), (64, 32, 64, 64, 3, 1), (64, 32, 64, 128, 3, 2), (64, 16, 128, 128, 3, 1)),
    *((64, 8, 256, 256, 3, 1), (64, 4, 512, 512, 3, 1), (16, 224, 3, 64, 7, 2), (16, 56, 64, 64, 1, 1)),
    *((16, 56, 64, 256, 1, 1), (16, 56, 64, 64, 3, 1), (16, 56, 256, 512, 1, 2), (16, 28, 128, 128, 3, 1)),
    *((16, 14, 1024, 256, 1, 1), (16, 7, 512, 512, 3, 1)),
)


def main(_: list[str]) -> None:
    from resnet_jax import cpu

    cpu.tune()  # Before JAX is imported.
    from benchmarks import results

    figures = []
    for layer in LAYERS:
        figures.append({"layer": layer, **_measured(*layer)})
        print(figures[-1], flush=True)
    results.add("kernel_gradient", rounds=ROUNDS.value, figures=figures)


def _measured(batch: int, side: int, channels: int, features: int, kernel: int, stride: int) -> dict[str, float]:
    import jax
    from jax import lax

    from resnet_jax import cpu
    from resnet_jax.models import convolution

    numbers = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NHWC", "HWIO", "NHWC"))
    key = jax.random.key(0)
    x = jax.random.normal(key, (batch, side, side, channels))
    weights = jax.random.normal(key, (kernel, kernel, channels, features))
    gradient = jax.random.normal(key, (batch, -(-side // stride), -(-side // stride), features))
    arguments = (x, weights, gradient)

    def forward(convolve, x, weights, _):
        return convolve(x, weights, (stride, stride), [(kernel // 2, kernel // 2)] * 2, dimension_numbers=numbers)

    def backward(convolve, x, weights, gradient):
        return jax.vjp(lambda weights: forward(convolve, x, weights, None), weights)[1](gradient)

    contestants = {
        "forward": (forward, lax.conv_general_dilated),
        "xla": (backward, lax.conv_general_dilated),
        "product": (backward, convolution.conv_general_dilated),
    }
    compiled = {
        name: jax.jit(functools.partial(way, convolve)).lower(*arguments).compile(cpu.compiler_options("cpu"))
        for name, (way, convolve) in contestants.items()
    }
    seconds = {name: [] for name in compiled}
    for number in range(1 + ROUNDS.value):
        for name, run in compiled.items():
            started = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            if number:  # The first is for warming up.
                seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * statistics.median(of) for name, of in seconds.items()}


if __name__ == "__main__":
    app.run(main)
