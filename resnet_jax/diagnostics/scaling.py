"""What scaling to expect of a train step: arithmetic with bytes, FLOPs and speeds that are assumed, no measurement."""

import dataclasses
from collections.abc import Iterable

from resnet_jax.diagnostics.hlo import Collective
from resnet_jax.errors import UserError

# What a device sends among n, as a multiple of the result's bytes: Patarasuk and Yuan 2009, "Bandwidth optimal
# all-reduce algorithms for clusters of workstations", for the all-reduce and the two halves that it is made of.
SENT_IN_A_RING = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
}
ROUNDS = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}  # around the ring, of n - 1 messages each
UTILIZATIONS = (0.2, 0.4, 0.6)  # of a chip's peak: convolutions reach less than large matrix products do


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What to expect if a chip's peak is reached to the share `utilization`.

    Attributes:
      utilization: in (0, 1].
      computation_ms, communication_ms: of a step on one device, in milliseconds.
      efficiency: the share of time that a device computes, if nothing is exchanged meanwhile; in (0, 1].
      efficiency_overlapped: the same if everything is, as far as it goes behind computation.
    """

    utilization: float
    computation_ms: float
    communication_ms: float
    efficiency: float
    efficiency_overlapped: float


def expect(
    found: Iterable[Collective], flops: float, peak_flops: float, devices: int, link: float, hop: float
) -> list[Expectation]:
    """What to expect of a step at each of `UTILIZATIONS`.

    Args:
      found: the collectives of a step.
      flops: floating-point operations of a step on one device.
      peak_flops: of a device, a second.
      devices, link, hop: as for `ring_seconds`, which see for the model and for what it raises.
    """
    communication = ring_seconds(found, devices, link, hop)
    expected = []
    for utilization in UTILIZATIONS:
        computation = flops / (utilization * peak_flops)
        alone = computation / (computation + communication)
        overlapped = computation / max(computation, communication)
        expected.append(Expectation(utilization, 1e3 * computation, 1e3 * communication, alone, overlapped))
    return expected


def ring_seconds(found: Iterable[Collective], devices: int, link: float, hop: float = 0.0) -> float:
    """The time that collectives take one after another, each in a ring of all devices.

    An all-reduce is 2 (n - 1) messages after one another, in which a device sends 2 (n - 1) / n of the bytes: the model
    of Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH", section 4.5.

    Args:
      found: the collectives.
      devices: n, how many there are in the ring.
      link: bytes a second that a device sends to its neighbours in the ring, in both directions together.
      hop: seconds that a message takes to a neighbour, however small it is.

    Raises:
      UserError: for a kind of collective of which a ring is no model.
    """
    seconds = 0.0
    for each in found:
        if each.kind not in SENT_IN_A_RING:
            raise UserError(f"the step has a collective of kind {each.kind}, whose time a ring does not tell")
        seconds += ROUNDS[each.kind] * (devices - 1) * hop
        seconds += SENT_IN_A_RING[each.kind](devices) * each.bytes / link
    return seconds
