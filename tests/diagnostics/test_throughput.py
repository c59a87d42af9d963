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
def short_rounds(monkeypatch):
    monkeypatch.setattr(throughput, "ROUNDS", 3)
    monkeypatch.setattr(throughput, "SECONDS_PER_ROUND", 0.2)


class SlowSource:
    """A source whose examples take 6 ms each."""

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


@pytest.mark.slow
def test_measurements_are_consistent(tiny_config):
    measured = measure(tiny_config)
    assert (measured.model, measured.batch_size, measured.devices, measured.feed) == ("tiny", 64, 8, "resident")
    assert measured.device + measured.input + measured.host == pytest.approx(1)
    assert min(measured.device, measured.input, measured.host) >= 0
    assert measured.flops == 6 * 64 * cost(from_config(tiny_config, 10), (8, 8, 1)).multiply_adds
    used = measured.flops * measured.images_per_second / measured.batch_size
    assert measured.utilization == pytest.approx(used / (8 * measured.peak.flops))
    assert measured.peak.source == "measured"
    text = throughput.format_throughput(measured)
    assert f"{measured.images_per_second:,.1f}" in text
    assert f"Bottleneck: {measured.bottleneck}. " in text


@pytest.mark.parametrize(
    ("step", "waiting", "expected", "bottleneck"),
    [
        (0.96, 0.04, (0.96, 0.04, 0.0), "device"),
        (0.6, 0.3, (0.6, 0.3, 0.1), "input"),
        (0.6, 0.1, (0.6, 0.1, 0.3), "host"),
        (1.2, 0.1, (1.0, 0.0, 0.0), "device"),  # Another program slowed the step down while it ran alone.
        (0.8, 0.4, (0.8, 0.2, 0.0), "input"),  # While the loop waited, the device still computed.
    ],
)
def test_bottleneck_is_what_takes_more_of_the_idle_time(step, waiting, expected, bottleneck):
    measured = throughput.shares([1.0, 1.0, 9.0], [step, step, 0.0], [waiting, waiting, 9.0])
    assert measured == pytest.approx(expected)
    assert throughput.bottleneck_of(*measured) == bottleneck


@pytest.mark.slow
def test_waiting_for_images_counts_as_input(tiny_config):
    tiny_config.dataset.feed = "streaming"
    tiny_config.dataset.num_workers = 0
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.5,), (0.25,)
    tiny_config.dataset.train_split = "train"
    tiny_config.dataset.test_split = "none"
    measured = measure(tiny_config, {"train": SlowSource()})
    assert measured.input > measured.host


@pytest.mark.slow
def test_other_work_of_the_loop_counts_as_host(tiny_config, monkeypatch):
    record = MetricsLogger.record

    def record_slowly(*arguments):
        time.sleep(0.2)
        record(*arguments)

    monkeypatch.setattr(MetricsLogger, "record", record_slowly)
    measured = measure(tiny_config)
    assert measured.host > measured.input
