import pytest

from resnet_jax.diagnostics.hlo import Collective
from resnet_jax.diagnostics.scaling import UTILIZATIONS, expect, ring_seconds
from resnet_jax.errors import UserError

MEGABYTE = Collective("all-reduce", (("u8", (1_000_000,)),))


def test_a_ring_sends_twice_all_bytes_but_a_devices_share():
    assert ring_seconds([MEGABYTE], devices=8, link=1e6) == pytest.approx(2 * 7 / 8)
    assert ring_seconds([MEGABYTE] * 3, devices=2, link=1e6) == pytest.approx(3)
    assert ring_seconds([MEGABYTE], devices=1, link=1e6, hop=1) == 0


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather():
    halves = [Collective("reduce-scatter", (("u8", (125_000,)),)), Collective("all-gather", MEGABYTE.arrays)]
    whole = ring_seconds([MEGABYTE], devices=8, link=1e6, hop=0.1)
    assert ring_seconds(halves, devices=8, link=1e6, hop=0.1) == pytest.approx(whole)
    assert whole == pytest.approx(2 * 7 / 8 + 14 * 0.1)


def test_efficiency_is_the_share_of_computation():
    each = expect([MEGABYTE], flops=2e9, peak_flops=1e12, devices=2, link=1e8, hop=0.0)
    assert [of.utilization for of in each] == list(UTILIZATIONS)
    assert [of.communication_ms for of in each] == pytest.approx([10] * 3)
    assert [of.computation_ms for of in each] == pytest.approx([10, 5, 10 / 3])
    assert [of.efficiency for of in each] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    assert [of.efficiency_overlapped for of in each] == pytest.approx([1, 1 / 2, 1 / 3])


def test_what_is_no_ring_is_refused():
    with pytest.raises(UserError, match="all-to-all, whose time a ring does not tell"):
        ring_seconds([Collective("all-to-all", ())], devices=2, link=1.0)
