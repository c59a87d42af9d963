"""What a device can do at most, for the share of it that a training makes use of."""

import dataclasses
import time

import jax
import jax.numpy as jnp

from resnet_jax import topology

ROUNDS = 10  # of which the quickest counts
SIDE = {"cpu": 2048}  # of the square matrices that are multiplied
SIDE_ELSEWHERE = 8192


@dataclasses.dataclass(frozen=True)
class Peak:
    """flops: floating-point operations a second, of one device; source: whether that was "specified" or "measured"."""

    flops: float
    source: str


def peak_of(device: jax.Device, dtype: str) -> Peak:
    """What the maker of a TPU says, in bfloat16; elsewhere what the quickest product of two large matrices reaches."""
    chip = topology.chip(device)
    if chip:
        return Peak(chip.peak_flops, "specified")
    side = SIDE.get(device.platform, SIDE_ELSEWHERE)
    matrix = jax.device_put(jnp.ones((side, side), dtype), device)
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    return Peak(2 * side**3 / min(_seconds(multiply, matrix) for _ in range(ROUNDS)), "measured")


def _seconds(multiply: jax.stages.Compiled, matrix: jax.Array) -> float:
    started = time.perf_counter()
    jax.block_until_ready(multiply(matrix, matrix))
    return time.perf_counter() - started
