"""Reports of answers that are made up."""

import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.data.examples import Examples
from resnet_jax.evaluation.assessment import assess, confusion_matrix
from resnet_jax.evaluation.metrics import Outcomes
from resnet_jax.evaluation.scoring import Scored
from resnet_jax.report.gathered import Gathered, ReportedRun
from resnet_jax.report.shown_pictures import choose
from resnet_jax.training.summaries import Curve

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "<a href='https://example.com'>x</a>",
)


def made_up_run(classes, size=600, name="made up", seed=0, side=8, result=None):
    """A run whose answers are drawn at random, and mostly right."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, len(classes), size).astype(np.int32)
    right = generator.random(size) < 0.8
    prediction = np.where(right, label, (label + generator.geometric(0.3, size)) % len(classes)).astype(np.int32)
    confidence = generator.beta(6, 1.5, size).astype(np.float32)
    loss = -np.log(np.where(prediction == label, confidence, (1 - confidence) * 0.5)).astype(np.float32)
    in_top5 = right | (generator.random(size) < 0.5)
    outcomes = Outcomes(np.arange(size, dtype=np.int32), label, loss, prediction, confidence, in_top5)
    images = generator.integers(0, 256, (size, side, side, 3), np.uint8)
    scored = Scored(outcomes, Examples(images, label, np.arange(size)))
    steps = list(range(50, 1001, 50))
    return ReportedRun(
        name=name,
        workdir=f"/runs/{name}",
        config=settings.default(),
        result=result,
        step=1000,
        parameters=12345,
        curves={
            f"{split}/{figure}": Curve(steps, [start * step ** (-0.3 if start > 1 else 0.08) for step in steps])
            for split in ("train", "validation")
            for figure, start in (("loss", 2.3), ("top1", 0.5))
        },
        assessment=assess(outcomes, classes, size),
        confusion=confusion_matrix(outcomes, len(classes)),
        galleries=choose(scored, classes, lambda position: f"test[{position}]"),
    )


@pytest.fixture
def made_up():
    """A function from the names of classes, and what `made_up_run` takes, to what a report is made of."""

    def make(classes, **settings):
        return Gathered("test", tuple(classes), (made_up_run(classes, **settings),), None, {})

    return make
