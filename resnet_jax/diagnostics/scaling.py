"""Expected scaling of a train step, computed from bytes, FLOPs and assumed speeds. Nothing here is measured."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from resnet_jax.diagnostics.hlo import Collective
from resnet_jax.errors import UserError

# Bytes that each of n devices sends, as a multiple of the result's bytes: Patarasuk and Yuan 2009, "Bandwidth optimal
# all-reduce algorithms for clusters of workstations", for the all-reduce and for the two halves it consists of.
SENT_IN_A_RING = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "collective-permute": lambda n: 1 if n > 1 else 0,  # to another device, which we take for a neighbor
}
MESSAGES = {  # that follow one another
    "all-reduce": lambda n: 2 * (n - 1),
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: n - 1,
    "collective-permute": lambda n: 1,
}
UTILIZATIONS = (0.2, 0.4, 0.6)  # fractions of a chip's peak; convolutions reach less than large matrix products


class Ring(NamedTuple):
    """A ring in which collectives run: the chips of a TPU slice, or one chip of each slice.

    Attributes:
      num_devices: devices in the ring.
      link_bytes_per_second: bytes per second that a device sends to its neighbors in the ring, both directions
        together.
      hop_seconds: how long the smallest message takes to reach a neighbor.
    """

    num_devices: int
    link_bytes_per_second: float
    hop_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class ExpectedScaling:
    """Expected times and efficiency of a step, if it reaches a given fraction of a chip's peak FLOP/s.

    Attributes:
      utilization: the assumed fraction of the peak, in (0, 1].
      computation_ms: milliseconds per step on one device.
      communication_ms: the same, inside and between slices.
      between_slices_ms: the part of it between slices.
      efficiency: the fraction of time in which a device computes if communication never overlaps computation; in
        (0, 1].
      efficiency_overlapped: the fraction of time in which a device computes if communication and computation overlap
        completely, so that a step takes as long as the longer of the two; in (0, 1].
    """

    utilization: float
    computation_ms: float
    communication_ms: float
    between_slices_ms: float
    efficiency: float
    efficiency_overlapped: float


def expected_scaling(
    collectives: Sequence[Collective],
    flops: float,
    peak_flops: float,
    in_slice: Ring,
    between_slices: Ring | None = None,
) -> list[ExpectedScaling]:
    """Return the expected scaling of a step at each of `UTILIZATIONS`.

    Args:
      collectives: the collectives of a step.
      flops: floating-point operations per step on one device.
      peak_flops: floating-point operations per second that one device reaches at most.
      in_slice: all devices, or those of a slice. `ring_seconds` describes the model of the time that communication
        takes.
      between_slices: one device of each slice; None: there is only one slice.

    Raises:
      UserError: see `ring_seconds`.

    Example:
      >>> megabyte = Collective("all-reduce", (("u8", (1_000_000,)),))
      >>> expected_scaling([megabyte], 2e9, 1e12, Ring(2, link_bytes_per_second=1e8))[0].efficiency
      0.5
    """
    between = 0.0
    if between_slices is not None:
        between = ring_seconds([c for c in collectives if c.between_slices], between_slices)
    communication = between + ring_seconds([c for c in collectives if not c.between_slices], in_slice)
    expectations = []
    for utilization in UTILIZATIONS:
        computation = flops / (utilization * peak_flops)
        expectations.append(
            ExpectedScaling(
                utilization=utilization,
                computation_ms=1e3 * computation,
                communication_ms=1e3 * communication,
                between_slices_ms=1e3 * between,
                efficiency=computation / (computation + communication),
                efficiency_overlapped=computation / max(computation, communication),
            )
        )
    return expectations


def ring_seconds(collectives: Sequence[Collective], ring: Ring) -> float:
    """Return how many seconds collectives take one after another, each in a ring.

    An all-reduce among n devices is a sequence of 2 (n - 1) messages, in which each device sends 2 (n - 1) / n of the
    bytes: the model of Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in
    MPICH", section 4.5.

    Args:
      collectives: the collectives of a step.
      ring: its devices (n) and links.

    Raises:
      UserError: for a kind of collective that is not run as a ring.

    Example:
      >>> megabyte = Collective("all-reduce", (("u8", (1_000_000,)),))
      >>> ring_seconds([megabyte], Ring(num_devices=2, link_bytes_per_second=1e6))
      1.0
    """
    seconds = 0.0
    for collective in collectives:
        if collective.kind not in SENT_IN_A_RING:
            raise UserError(
                f"the step has a collective ({collective.kind}) whose time the ring model does not predict. "
                "Leave --link_gbytes_per_s unset."
            )
        seconds += MESSAGES[collective.kind](ring.num_devices) * ring.hop_seconds
        seconds += SENT_IN_A_RING[collective.kind](ring.num_devices) * collective.bytes / ring.link_bytes_per_second
    return seconds
