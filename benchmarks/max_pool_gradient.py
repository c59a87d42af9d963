"""Milliseconds of the gradient of max-pooling on a CPU: ours and XLA's select-and-scatter, in turns.

    python -m benchmarks.max_pool_gradient

Each gradient is a compiled program of its own, with the CPU tuning of a run.

RESULT, 2026-11-29, commit 5f3ddc4, 2 cores of an AMD EPYC (family 25, model 17, without AMX; a shared machine),
Python 3.11, JAX 0.10.2, medians of 9 rounds:

    window         input               dtype     XLA, ms  ours, ms  speed-up
    2x2, stride 2  [128, 30, 30, 64]   float32   45.1     2.8       16.3
    2x2, stride 2  [128, 30, 30, 64]   bfloat16  48.9     8.4       5.9
    3x3, stride 2  [64, 112, 112, 64]  float32   386.2    91.0      4.2
    3x3, stride 2  [64, 112, 112, 64]  bfloat16  441.8    110.2     4.1
    2x2, stride 1  [32, 112, 112, 64]  float32   488.8    60.5      8.0
    2x2, stride 1  [32, 112, 112, 64]  bfloat16  534.0    55.0      9.7
"""

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks import tunings

# Window, stride, padding and the shape of the input: between convolutions, of a stem, and before blurring.
CASES = {
    "2x2, stride 2": (2, 2, 0, (128, 30, 30, 64)),
    "3x3, stride 2": (3, 2, 1, (64, 112, 112, 64)),
    "2x2, stride 1": (2, 1, 0, (32, 112, 112, 64)),
}
DTYPES = ("float32", "bfloat16")
ROUNDS = 9


def main() -> None:
    tunings.tuned()
    from resnet_jax.terminal import table

    rows = []
    for (name, case), dtype in itertools.product(CASES.items(), DTYPES):
        xla, ours = time_gradients(*case, dtype)
        speed_up = statistics.median(theirs / own for theirs, own in zip(xla, ours, strict=True))
        milliseconds = (f"{1e3 * statistics.median(seconds):.1f}" for seconds in (xla, ours))
        rows.append((name, str(list(case[-1])), dtype, *milliseconds, f"{speed_up:.1f}"))
    print(table(rows, header=("window", "input", "dtype", "XLA, ms", "ours, ms", "speed-up")))


def time_gradients(
    window: int, stride: int, padding: int, shape: tuple[int, ...], dtype: str
) -> tuple[list[float], list[float]]:
    """Return the seconds of XLA's gradient and of ours, one value per round."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from resnet_jax.models.max_pool import max_pool
    from resnet_jax.runtime import parallel

    mesh = parallel.make_mesh()
    generator = np.random.default_rng(0)

    def compile_gradient(pool: Callable[[jax.Array], jax.Array]) -> Callable[[], jax.Array]:
        x = jnp.asarray(generator.normal(size=shape), dtype)
        gradient = jnp.asarray(generator.normal(size=jax.eval_shape(pool, x).shape), dtype)
        compiled = parallel.jit(lambda x, gradient: jax.vjp(pool, x)[1](gradient), mesh).lower(x, gradient).compile()
        return lambda: compiled(x, gradient)

    def pool_by_xla(x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (window, window), (stride, stride), [(padding, padding)] * 2)

    programs = [compile_gradient(pool) for pool in (pool_by_xla, lambda x: max_pool(x, window, stride, padding))]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + ROUNDS):
        for program, seconds in zip(programs, times, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(program())
            seconds.append(time.perf_counter() - started)
    xla, ours = times
    return xla[1:], ours[1:]  # The first round is a warm-up.


if __name__ == "__main__":
    main()
