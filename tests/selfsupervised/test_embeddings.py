import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.selfsupervised import embeddings


def test_spread_is_1_for_isotropic_and_0_for_collapsed_embeddings():
    isotropic = np.random.default_rng(0).normal(size=(4000, 32)).astype(np.float32)
    assert embeddings.spread(isotropic) == pytest.approx(1, abs=0.01)
    assert embeddings.spread(3 * isotropic) == pytest.approx(float(embeddings.spread(isotropic)), rel=1e-5)
    assert embeddings.spread(np.ones((10, 4), np.float32)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_effective_rank_is_the_participation_ratio_of_the_eigenvalues(shape):
    values = np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 2, shape[1])
    eigenvalues = np.linalg.eigvalsh(np.cov(values, rowvar=False))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert embeddings.effective_rank(jnp.float32(values)) == pytest.approx(expected, rel=1e-4)


def test_effective_rank_of_embeddings_on_a_line_is_1():
    line = np.outer(np.arange(10.0), [1.0, 2.0, -1.0]) + 5
    assert embeddings.effective_rank(jnp.float32(line)) == pytest.approx(1, rel=1e-5)


def test_nearest_neighbors_vote_with_the_weights_of_wu_et_al():
    generator = np.random.default_rng(0)
    bank, queries = generator.normal(size=(60, 5)), generator.normal(size=(15, 5))
    labels = generator.integers(0, 4, 60).astype(np.int32)
    expected = []
    for query in queries:
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        votes = np.zeros(4)
        for index in np.argsort(-cosines)[:20]:
            votes[labels[index]] += np.exp(cosines[index] / 0.07)
        expected.append(votes.argmax())
    found = embeddings.nearest_neighbor_classes(jnp.float32(queries), jnp.float32(bank), labels, 4)
    np.testing.assert_array_equal(found, expected)
