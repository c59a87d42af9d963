import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from resnet_jax.evaluation import linear_probe
from resnet_jax.evaluation.nearest_neighbors import LabeledFeatures


def features(seed, size, classes=4, width=6):
    """Return features of overlapping classes."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, width))
    labels = generator.integers(0, classes, size).astype(np.int32)
    scales = 10.0 ** (np.arange(width) % 4)
    values = (centers[labels] + generator.normal(size=(size, width))) * scales
    return LabeledFeatures(values.astype(np.float32), labels, np.arange(size))


@pytest.mark.parametrize("classes", [2, 4])
def test_probe_predicts_as_scikit_learn_does(classes):
    train, validation, test = (features(seed, size, classes) for seed, size in [(0, 400), (1, 100), (2, 100)])
    probe = linear_probe.fit(train, validation, strengths=[0.1])
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(
        train.values, train.labels
    )
    np.testing.assert_array_equal(probe.ranking(test.values)[:, 0], reference.predict(test.values))
    assert probe.validation_top1 == reference.score(validation.values, validation.labels)


def test_regularization_is_chosen_on_validation():
    """With few examples of many dimensions, the weakest regularization overfits."""
    train, validation = features(0, 40, width=30), features(1, 400, width=30)
    scores = {
        strength: linear_probe.fit(train, validation, [strength]).validation_top1 for strength in linear_probe.STRENGTHS
    }
    chosen = linear_probe.fit(train, validation)
    assert chosen.validation_top1 == max(scores.values()) > min(scores.values())
    assert scores[chosen.strength] == chosen.validation_top1


def test_ranking_orders_all_known_labels():
    train = features(0, 200)
    train = train._replace(labels=2 * train.labels)  # Labels with gaps.
    ranking = linear_probe.fit(train, train).ranking(train.values)
    assert (np.sort(ranking, axis=-1) == [0, 2, 4, 6]).all()
