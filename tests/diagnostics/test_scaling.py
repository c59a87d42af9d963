import pytest

from resnet_jax.diagnostics.hlo import Collective
from resnet_jax.diagnostics.scaling import UTILIZATIONS, Ring, expected_scaling, ring_seconds
from resnet_jax.errors import UserError

MEGABYTE = Collective("all-reduce", (("u8", (1_000_000,)),))


def test_each_device_sends_all_but_its_own_share_twice_in_an_all_reduce():
    assert ring_seconds([MEGABYTE], Ring(8, 1e6)) == pytest.approx(2 * 7 / 8)
    assert ring_seconds([MEGABYTE] * 3, Ring(2, 1e6)) == pytest.approx(3)
    assert ring_seconds([MEGABYTE], Ring(1, 1e6, hop_seconds=1)) == 0


def test_all_reduce_takes_as_long_as_a_reduce_scatter_and_an_all_gather():
    ring = Ring(8, 1e6, hop_seconds=0.1)
    halves = [Collective("reduce-scatter", (("u8", (125_000,)),)), Collective("all-gather", MEGABYTE.arrays)]
    whole = ring_seconds([MEGABYTE], ring)
    assert ring_seconds(halves, ring) == pytest.approx(whole)
    assert whole == pytest.approx(2 * 7 / 8 + 14 * 0.1)


def test_permutation_sends_everything_once():
    permutation = Collective("collective-permute", MEGABYTE.arrays)
    assert ring_seconds([permutation], Ring(8, 1e6, hop_seconds=0.1)) == pytest.approx(1 + 0.1)


def test_expected_efficiency_is_the_fraction_of_time_spent_computing():
    expectations = expected_scaling([MEGABYTE], 2e9, 1e12, Ring(2, 1e8))
    assert [expected.utilization for expected in expectations] == list(UTILIZATIONS)
    assert [expected.communication_ms for expected in expectations] == pytest.approx([10] * 3)
    assert [expected.computation_ms for expected in expectations] == pytest.approx([10, 5, 10 / 3])
    assert [expected.efficiency for expected in expectations] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    assert [expected.efficiency_overlapped for expected in expectations] == pytest.approx([1, 1 / 2, 1 / 3])


def test_expected_efficiency_is_1_without_collectives():
    assert expected_scaling([], 1.0, 1.0, Ring(8, 1.0, 1.0))[0].efficiency == 1


def test_exchanges_between_slices_have_links_of_their_own():
    """Two slices of four chips: the sum of a megabyte in a slice, and of each chip's quarter between the slices."""
    quarter = Collective("all-reduce", (("u8", (250_000,)),), between_slices=True)
    expected, *_ = expected_scaling([MEGABYTE, quarter], 1.0, 1.0, Ring(4, 1e9), Ring(2, 1e7, hop_seconds=1e-3))
    assert expected.between_slices_ms == pytest.approx(25 + 2)
    assert expected.communication_ms == pytest.approx(27 + 1.5)


def test_ring_seconds_rejects_collectives_that_do_not_run_in_a_ring():
    with pytest.raises(UserError, match=r"a collective \(all-to-all\) whose time the ring model does not predict"):
        ring_seconds([Collective("all-to-all", ())], Ring(2, 1.0))
