import dataclasses
import re

import pytest

from resnet_jax.diagnostics import hlo
from resnet_jax.diagnostics.scaling import expect
from resnet_jax.errors import UserError
from resnet_jax.runtime import tpu_topology
from resnet_jax.training import experiment as setups
from resnet_jax.training.memory_estimate import Usage


def test_one_device_has_nobody_to_talk_to(tiny_config, single_device):
    found = hlo.analyze(setups.prepare_described(tiny_config, single_device))
    assert (found.devices, found.collectives, found.scaling, found.capacity) == (1, [], [], None)
    text = hlo.report(found)
    assert text.startswith("tiny, 64 examples a step, 64 on each of 1 x cpu\n\nNo collectives.\n\n")
    assert "expected" not in text


def test_flops_are_of_one_device(tiny_config, mesh, single_device):
    """Each of eight has an eighth of the examples; the update of the weights they all do."""
    one, eight = (hlo.analyze(setups.prepare_described(tiny_config, on)) for on in (single_device, mesh))
    assert eight.flops < one.flops < 8.1 * eight.flops
    assert one.flops > 0.5 * 8 * eight.flops


def test_the_report_tells_what_is_expected_and_that_it_is_not_measured(tiny_config, mesh, monkeypatch):
    monkeypatch.setattr(tpu_topology, "chip", lambda device: tpu_topology.Chip(10**9, 1e12))
    found = hlo.analyze(setups.prepare_described(tiny_config, mesh), link=1e9, hop=1e-6)
    found = dataclasses.replace(found, memory=Usage(1000, 200, 30, 4))
    assert found.scaling[0].computation_ms == pytest.approx(1e3 * found.flops / (0.2 * 1e12))
    text = hlo.report(found)
    (reduced,) = found.collectives
    assert re.search(
        rf"^all-reduce +{reduced['count']} +0 +{reduced['bytes']:,} +{reduced['bytes']:,} f32$", text, re.M
    )
    assert re.search(r"^together +1,234$", text, re.M)
    assert re.search(r"^the chip has +1,000,000,000$", text, re.M)
    assert "expected, not measured" in text
    assert f"{found.scaling[-1].efficiency:.1%}" in text


def test_speeds_of_unknown_devices_are_not_guessed(tiny_config, mesh):
    with pytest.raises(UserError, match="what scaling to expect of cpu is not known"):
        hlo.analyze(setups.prepare_described(tiny_config, mesh), link=1e9)


def test_the_expectation_is_that_of_the_collectives(tiny_config, mesh, monkeypatch):
    monkeypatch.setattr(tpu_topology, "chip", lambda device: tpu_topology.Chip(10**9, 1e12))
    parts = setups.prepare_described(tiny_config, mesh)
    slow, fast = (hlo.analyze(parts, link=link) for link in (1e9, 2e9))
    assert slow.scaling[0].communication_ms == pytest.approx(2 * fast.scaling[0].communication_ms)
    assert expect([], 1.0, 1.0, 8, 1.0, 1.0)[0].efficiency == 1
