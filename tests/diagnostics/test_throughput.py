import time

import numpy as np
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.diagnostics import throughput
from resnet_jax.models.factory import from_config
from resnet_jax.models.flops import cost
from resnet_jax.terminal import Reporter
from resnet_jax.training.metrics_logger import MetricsLogger


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(throughput, "ROUNDS", 3)
    monkeypatch.setattr(throughput, "SECONDS_A_ROUND", 0.2)


class Slow:
    """Examples that take their time."""

    classes = tuple("0123456789")
    labels = np.arange(400) % 10

    def __len__(self):
        return 400

    def __getitem__(self, index):
        time.sleep(0.006)
        return np.full((8, 8, 1), index % 200, np.uint8), index % 10


def measure(config, sources=None):
    sources = sources or open_sources("digits", None)
    return throughput.measure(config, sources, Reporter(active=False, max_unreadable=0))


def test_what_is_measured_goes_together(tiny_config):
    found = measure(tiny_config)
    assert (found.model, found.batch_size, found.devices, found.feed) == ("tiny", 64, 8, "resident")
    assert found.device + found.input + found.host == pytest.approx(1)
    assert min(found.device, found.input, found.host) >= 0
    assert found.flops == 6 * 64 * cost(from_config(tiny_config, 10), (8, 8, 1)).multiply_adds
    used = found.flops * found.images_per_second / found.batch_size
    assert found.utilization == pytest.approx(used / (8 * found.peak.flops))
    assert found.peak.source == "measured"
    text = throughput.report(found)
    assert f"{found.images_per_second:,.1f}" in text
    assert f"Bottleneck: {found.bottleneck}. " in text


def test_a_loop_that_waits_for_pictures_is_held_up_by_its_input(tiny_config):
    tiny_config.dataset.feed, tiny_config.dataset.num_workers = "streaming", 0
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.5,), (0.25,)
    tiny_config.dataset.train_split, tiny_config.dataset.test_split = "train", "none"
    found = measure(tiny_config, {"train": Slow()})
    assert found.bottleneck == "input"
    assert found.input > max(found.device, found.host)


def test_a_loop_that_is_at_something_else_is_held_up_by_the_host(tiny_config, monkeypatch):
    record = MetricsLogger.record

    def slow(*arguments):
        time.sleep(0.2)
        record(*arguments)

    monkeypatch.setattr(MetricsLogger, "record", slow)
    found = measure(tiny_config)
    assert found.bottleneck == "host"
    assert found.host > max(found.device, found.input)
