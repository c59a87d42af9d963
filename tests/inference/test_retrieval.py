import numpy as np
import pytest

from resnet_jax.inference import predict, retrieval
from resnet_jax.inference.features import Features
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import Outputs

REPORTER = Reporter(active=False)


def outputs_of(features, problems=()):
    return Outputs(np.zeros((len(features), 2), np.float32), np.asarray(features, np.float32), dict(problems))


def collect(features, names):
    return Features.collect([(names, outputs_of(features))])


@pytest.mark.parametrize("block", [4, 7, 4096])
def test_ranking_equals_a_brute_force_search(monkeypatch, block):
    monkeypatch.setattr(retrieval, "BLOCK_SIZE", block)
    generator = np.random.default_rng(0)
    candidates, queries = generator.normal(size=(25, 6)), generator.normal(size=(10, 6))
    rank = retrieval.rank_by_similarity(collect(candidates, [str(number) for number in range(25)]), 5)
    for ranking, features in zip(rank(outputs_of(queries)), queries, strict=True):
        cosines = candidates @ features / np.linalg.norm(candidates, axis=1) / np.linalg.norm(features)
        expected = sorted(range(25), key=lambda index: -cosines[index])[:5]
        assert [int(name) for name, _ in ranking] == expected
        np.testing.assert_allclose([cosine for _, cosine in ranking], cosines[expected], rtol=1e-5)


def test_first_of_equally_similar_images_comes_first(monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK_SIZE", 2)
    rank = retrieval.rank_by_similarity(collect([[0, 1], [1, 0], [3, 0], [1, 0], [0, 0]], list("abcde")), 9)
    (ranking,) = rank(outputs_of([[2, 0]]))
    assert ranking == [("b", 1.0), ("c", 1.0), ("d", 1.0), ("a", 0.0), ("e", 0.0)]


def test_copy_of_the_image_is_most_similar(trained, write):
    folder = write({f"{number}.png": number for number in range(100)}, "folder")
    queries = write({"mine.png": 42, "bad.png": b""}, "wanted")
    rank = retrieval.rank_by_similarity(Features.collect(predict.model_outputs(trained, folder, REPORTER)), 3)
    ((batch, outputs),) = predict.model_outputs(trained, queries, REPORTER)
    readable, unreadable = predict.predictions(batch, outputs, rank)
    assert readable.ranking[0] == (folder[42], pytest.approx(1, abs=1e-6))
    assert len(readable.ranking) == 3
    assert unreadable == (queries[1], [], "the file is empty")
