import dataclasses
import re

import pytest

from resnet_jax.diagnostics.step_analysis import Links, analyze_step, format_analysis
from resnet_jax.errors import UserError
from resnet_jax.runtime import tpu_topology
from resnet_jax.training.experiment import build_abstract
from resnet_jax.training.memory_estimate import MemoryUsage


def test_step_analysis_finds_no_collectives_on_one_device(tiny_config, single_device):
    analysis = analyze_step(build_abstract(tiny_config, single_device))
    assert (analysis.devices, analysis.collectives, analysis.scaling, analysis.capacity) == (1, [], [], None)
    text = format_analysis(analysis)
    assert text.startswith("tiny, 64 images per step, 64 on each of 1 x cpu\n\nNo collectives.\n\n")
    assert "expected" not in text


def test_step_analysis_counts_the_flops_of_one_device(tiny_config, mesh, single_device):
    """Each of eight devices computes an eighth of the batch, but all of them compute the whole weight update."""
    on_one, on_eight = (analyze_step(build_abstract(tiny_config, devices)) for devices in (single_device, mesh))
    assert on_eight.flops < on_one.flops < 8.1 * on_eight.flops
    assert on_one.flops > 0.5 * 8 * on_eight.flops


def test_formatted_analysis_labels_scaling_as_expected_and_not_measured(tiny_config, mesh, monkeypatch):
    monkeypatch.setattr(tpu_topology, "chip", lambda device: tpu_topology.Chip(10**9, 1e12))
    analysis = analyze_step(build_abstract(tiny_config, mesh), Links(1e9, 1e-6))
    analysis = dataclasses.replace(analysis, memory=MemoryUsage(1000, 200, 30, 4))
    assert analysis.scaling[0].computation_ms == pytest.approx(1e3 * analysis.flops / (0.2 * 1e12))
    text = format_analysis(analysis)
    (all_reduce,) = analysis.collectives
    count, size = all_reduce["count"], f"{all_reduce['bytes']:,}"
    assert re.search(rf"^all-reduce +{count} +0 +{size} +{size} f32$", text, re.M)
    assert re.search(r"^total +1,234$", text, re.M)
    assert re.search(r"^capacity of the chip +1,000,000,000$", text, re.M)
    assert "expected, not measured" in text
    assert f"{analysis.scaling[-1].efficiency:.1%}" in text


def test_step_analysis_predicts_no_scaling_for_devices_of_unknown_speed(tiny_config, mesh):
    with pytest.raises(UserError, match=r"the peak speed of this device \(cpu\) is unknown"):
        analyze_step(build_abstract(tiny_config, mesh), Links(1e9))


def test_expected_communication_time_is_inversely_proportional_to_link_speed(tiny_config, mesh, monkeypatch):
    monkeypatch.setattr(tpu_topology, "chip", lambda device: tpu_topology.Chip(10**9, 1e12))
    experiment = build_abstract(tiny_config, mesh)
    slow, fast = (analyze_step(experiment, Links(speed)) for speed in (1e9, 2e9))
    assert slow.scaling[0].communication_ms == pytest.approx(2 * fast.scaling[0].communication_ms)
