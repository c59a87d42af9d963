import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.federated import compression

UPDATE = {
    "kernel": jax.random.normal(jax.random.key(0), (4, 5)),
    "bias": jnp.array([0.0, 1e-3, -2e-3]),
    "zero": jnp.zeros(3),
}


def test_rounding_to_int8_is_unbiased_and_off_by_less_than_a_level():
    keys = jax.random.split(jax.random.key(1), 4000)
    decoded = jax.vmap(lambda key: compression.round_to_int8(UPDATE, key))(keys)
    for name, values in UPDATE.items():
        level = float(jnp.abs(values).max()) / 127
        assert float(jnp.abs(decoded[name] - values).max()) <= level * 1.001
        # A level is taken with a std of at most half a level, so the mean has one of level / 2 / sqrt(4000).
        np.testing.assert_allclose(decoded[name].mean(axis=0), values, atol=5 * level / 2 / 4000**0.5)
        if level:
            levels = decoded[name] / level
            np.testing.assert_allclose(levels, jnp.round(levels), atol=1e-3)


def test_largest_entries_of_the_whole_update_are_kept():
    kept = compression.keep_largest(UPDATE, share=0.25)
    size = sum(leaf.size for leaf in jax.tree.leaves(UPDATE))
    flat = np.concatenate([np.ravel(kept[name]) for name in UPDATE])
    original = np.concatenate([np.ravel(UPDATE[name]) for name in UPDATE])
    positions = np.flatnonzero(flat)
    assert len(positions) == np.ceil(0.25 * size)
    np.testing.assert_array_equal(flat[positions], original[positions])
    assert np.abs(original[positions]).min() >= np.abs(np.delete(original, positions)).max()


@pytest.mark.parametrize(("name", "expected"), [("none", 4 * 26), ("int8", 26 + 4 * 3), ("top_k", 8 * 7)])
def test_bytes_are_those_of_the_numbers_that_travel(name, expected):
    assert compression.bytes_sent(UPDATE, name, share=0.25) == expected
