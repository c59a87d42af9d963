"""Reports on made-up runs with random predictions."""

import itertools

import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.evaluation.metrics import ExampleMetrics, classification_report, confusion_matrix
from resnet_jax.evaluation.model_comparison import McNemar, ScoredExamples
from resnet_jax.report.collect import ReportData, ReportedRun
from resnet_jax.report.example_images import choose_galleries
from resnet_jax.training.metrics_writer import Curve

RESULT = {
    "seconds": 100.0,
    "spent": {"training": 80.0, "input": 2.0, "evaluation": 15.0, "saving": 3.0, "compilation": 9.0},
    "provenance": {
        "date": "2026-11-25T14:00:05+00:00",
        "commit": "14aec56",
        "python": "3.11.7",
        "jax": "0.10.2",
        "jaxlib": "0.10.2",
        "flax": "0.12.8",
        "machine": "x86_64",
        "cpu_count": 2,
        "device": "cpu",
        "device_count": 1,
        "process_count": 1,
    },
}


def random_predictions(num_classes, size=600, seed=0, side=8):
    """Random predictions, most of them correct, of random images."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, num_classes, size).astype(np.int32)
    wrong = (label + 1 + generator.integers(0, num_classes - 1, size)) % num_classes
    prediction = np.where(generator.random(size) < 0.8, label, wrong).astype(np.int32)
    confidence = generator.beta(6, 1.5, size).astype(np.float32)
    loss = -np.log(np.where(prediction == label, confidence, (1 - confidence) / 2)).astype(np.float32)
    in_top5 = (prediction == label) | (generator.random(size) < 0.5)
    metrics = ExampleMetrics(np.arange(size, dtype=np.int32), label, loss, prediction, confidence, in_top5)
    images = generator.integers(0, 256, (size, side, side, 3), np.uint8)
    return ScoredExamples(metrics, InMemoryExamples(images, label, np.arange(size)))


def random_run(classes, name="made up", result=RESULT, without=(), **predictions):
    """Return a run with `random_predictions`. It has no curves of the splits in `without`."""
    scored = random_predictions(len(classes), **predictions)
    steps = list(range(50, 1001, 50))
    values = {"loss": [2 * 0.8**number for number in range(20)], "top1": [0.9 - 0.8**number for number in range(1, 21)]}
    splits = [split for split in ("train", "validation") if split not in without]
    return ReportedRun(
        name=name,
        workdir=f"/runs/{name}",
        config=settings.default(),
        result=result,
        temperature=1.0,
        step=1000,
        parameters=12345,
        curves={f"{split}/{metric}": Curve(steps, values[metric]) for split in splits for metric in values},
        metrics=classification_report(scored.metrics, classes, len(scored.examples)),
        confusion=confusion_matrix(scored.metrics, len(classes)),
        galleries=choose_galleries(
            scored, classes, lambda position: f"test[{position}]", lambda images: [255 - image for image in images]
        ),
    )


def report_data(classes, *runs, split="test"):
    """The data of a report on made-up runs."""
    several = len(runs) > 1
    pairs = itertools.combinations([run.name for run in runs], 2)
    return ReportData(
        split=split,
        classes=tuple(classes),
        runs=runs,
        ensemble=runs[0].metrics if several else None,
        mcnemar={pair: McNemar(17, 4, 0.0072) for pair in pairs},
    )


@pytest.fixture
def scored():
    return random_predictions(num_classes=4)
