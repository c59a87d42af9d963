import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import pixels


def test_to_dtype_rounds_and_clips_integers():
    values = jnp.array([-3.0, 0.4, 0.6, 254.6, 300.0])
    converted = pixels.to_dtype(values, jnp.uint8)
    assert converted.dtype == jnp.uint8
    assert converted.tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_to_dtype_only_clips_floats(dtype):
    converted = pixels.to_dtype(jnp.array([-3.0, 0.5, 300.0]), dtype)
    assert converted.dtype == dtype
    assert converted.tolist() == [0.0, 0.5, 255.0]


@pytest.mark.parametrize(("fill", "expected"), [((1.4, 2.0, 250.6), [1, 2, 251]), (7, [7, 7, 7])])
def test_fill_where_takes_one_value_or_one_per_channel(noise, fill, expected):
    where = np.zeros((5, 20, 28, 1), bool)
    where[1, 2:4, 5] = True
    filled = np.asarray(pixels.fill_where(jnp.asarray(noise), where, fill))
    assert (filled[1, 2:4, 5] == expected).all()
    np.testing.assert_array_equal(np.where(where, 0, filled), np.where(where, 0, noise))
