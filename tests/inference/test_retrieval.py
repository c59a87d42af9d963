import numpy as np
import pytest

from resnet_jax.inference import predict, retrieval
from resnet_jax.inference.features import Features
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import Outputs

REPORTER = Reporter(active=False)


def outputs_of(features, problems=()):
    return Outputs(np.zeros((len(features), 2), np.float32), np.asarray(features, np.float32), dict(problems))


def gathered(features, names):
    return Features.of([(names, outputs_of(features))])


@pytest.mark.parametrize("block", [4, 7, 4096])
def test_the_nearest_are_those_of_brute_force(monkeypatch, block):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    generator = np.random.default_rng(0)
    among, wanted = generator.normal(size=(25, 6)), generator.normal(size=(10, 6))
    rank = retrieval.nearest(gathered(among, [str(number) for number in range(25)]), 5)
    for answer, features in zip(rank(outputs_of(wanted)), wanted, strict=True):
        cosines = among @ features / np.linalg.norm(among, axis=1) / np.linalg.norm(features)
        expected = sorted(range(25), key=lambda place: -cosines[place])[:5]
        assert [int(name) for name, _ in answer] == expected
        np.testing.assert_allclose([cosine for _, cosine in answer], cosines[expected], rtol=1e-5)


def test_of_equally_near_ones_the_first_comes_first(monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 2)
    rank = retrieval.nearest(gathered([[0, 1], [1, 0], [3, 0], [1, 0], [0, 0]], list("abcde")), 9)
    (answer,) = rank(outputs_of([[2, 0]]))
    assert answer == [("b", 1.0), ("c", 1.0), ("d", 1.0), ("a", 0.0), ("e", 0.0)]


def test_a_copy_of_the_picture_is_nearest(run, write):
    folder = write({f"{number}.png": number for number in range(100)}, "folder")
    wanted = write({"mine.png": 42, "bad.png": b""}, "wanted")
    rank = retrieval.nearest(Features.of(predict.outputs(run, folder, REPORTER)), 3)
    ((some, outputs),) = predict.outputs(run, wanted, REPORTER)
    found, bad = predict.answers(some, outputs, rank)
    assert found.best[0] == (folder[42], pytest.approx(1, abs=1e-6))
    assert len(found.best) == 3
    assert bad == (wanted[1], [], "the file is empty")
