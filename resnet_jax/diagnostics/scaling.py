"""Expected scaling of a train step, computed from bytes, FLOPs and assumed speeds. Nothing here is measured."""

import dataclasses
from collections.abc import Sequence

from resnet_jax.diagnostics.hlo import Collective
from resnet_jax.errors import UserError

# Bytes that each of n devices sends, as a multiple of the result's bytes: Patarasuk and Yuan 2009, "Bandwidth optimal
# all-reduce algorithms for clusters of workstations", for the all-reduce and for the two halves it consists of.
SENT_IN_A_RING = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
}
ROUNDS = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}  # around the ring, with n - 1 messages each
UTILIZATIONS = (0.2, 0.4, 0.6)  # fractions of a chip's peak; convolutions reach less than large matrix products


@dataclasses.dataclass(frozen=True)
class ExpectedScaling:
    """Expected times and efficiency of a step, if it reaches a given fraction of a chip's peak FLOP/s.

    Attributes:
      utilization: the assumed fraction of the peak, in (0, 1].
      computation_ms, communication_ms: milliseconds per step on one device.
      efficiency: the fraction of time in which a device computes if communication never overlaps computation; in
        (0, 1].
      efficiency_overlapped: the fraction of time in which a device computes if communication and computation overlap
        completely, so that a step takes as long as the longer of the two; in (0, 1].
    """

    utilization: float
    computation_ms: float
    communication_ms: float
    efficiency: float
    efficiency_overlapped: float


def expected_scaling(
    collectives: Sequence[Collective],
    flops: float,
    peak_flops: float,
    num_devices: int,
    link_bytes_per_second: float,
    hop_seconds: float,
) -> list[ExpectedScaling]:
    """Return the expected scaling of a step at each of `UTILIZATIONS`.

    Args:
      collectives: the collectives of a step.
      flops: floating-point operations per step on one device.
      peak_flops: floating-point operations per second that one device reaches at most.
      num_devices, link_bytes_per_second, hop_seconds: see `ring_seconds`, which also describes the model of the time
        that communication takes.

    Raises:
      UserError: see `ring_seconds`.

    Example:
      >>> megabyte = Collective("all-reduce", (("u8", (1_000_000,)),))
      >>> expected_scaling([megabyte], 2e9, 1e12, 2, link_bytes_per_second=1e8, hop_seconds=0.0)[0].efficiency
      0.5
    """
    communication = ring_seconds(collectives, num_devices, link_bytes_per_second, hop_seconds)
    expectations = []
    for utilization in UTILIZATIONS:
        computation = flops / (utilization * peak_flops)
        expectations.append(
            ExpectedScaling(
                utilization=utilization,
                computation_ms=1e3 * computation,
                communication_ms=1e3 * communication,
                efficiency=computation / (computation + communication),
                efficiency_overlapped=computation / max(computation, communication),
            )
        )
    return expectations


def ring_seconds(
    collectives: Sequence[Collective], num_devices: int, link_bytes_per_second: float, hop_seconds: float = 0.0
) -> float:
    """Return how many seconds collectives take one after another, each in a ring of all devices.

    An all-reduce among n devices is a sequence of 2 (n - 1) messages, in which each device sends 2 (n - 1) / n of the
    bytes: the model of Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in
    MPICH", section 4.5.

    Args:
      collectives: the collectives of a step.
      num_devices: devices in the ring (n).
      link_bytes_per_second: bytes per second that a device sends to its neighbors in the ring, both directions
        together.
      hop_seconds: how long the smallest message takes to reach a neighbor.

    Raises:
      UserError: for a kind of collective that is not run as a ring.

    Example:
      >>> megabyte = Collective("all-reduce", (("u8", (1_000_000,)),))
      >>> ring_seconds([megabyte], num_devices=2, link_bytes_per_second=1e6)
      1.0
    """
    seconds = 0.0
    for collective in collectives:
        if collective.kind not in SENT_IN_A_RING:
            raise UserError(
                f"the step has a collective ({collective.kind}) whose time the ring model does not predict. "
                "Leave --link_gbytes_per_s unset."
            )
        seconds += ROUNDS[collective.kind] * (num_devices - 1) * hop_seconds
        seconds += SENT_IN_A_RING[collective.kind](num_devices) * collective.bytes / link_bytes_per_second
    return seconds
