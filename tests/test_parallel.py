import jax
import numpy as np
import pytest

from resnet_jax import parallel
from resnet_jax.errors import UserError


def test_batch_is_split_over_all_devices(mesh):
    batch = parallel.place(np.arange(16).reshape(16, 1), parallel.batch_sharded(mesh))
    assert [shard.data.ravel().tolist() for shard in batch.addressable_shards] == [[i, i + 1] for i in range(0, 16, 2)]


def test_replicated_array_is_whole_on_every_device(mesh):
    array = parallel.place(np.arange(3), parallel.replicated(mesh))
    assert len(array.addressable_shards) == 8
    assert all(shard.data.tolist() == [0, 1, 2] for shard in array.addressable_shards)


def test_fetched_arrays_are_copies(single_device):
    """A view would keep the buffer, which the next step wants to reuse."""
    array = parallel.place(np.arange(1000.0, dtype=np.float32), parallel.replicated(single_device))
    assert not jax.device_get(array).flags.owndata
    assert parallel.fetch(array).flags.owndata
    np.testing.assert_array_equal(parallel.fetch(array), np.arange(1000.0))


def test_uneven_batch_is_refused_with_a_size_that_works(mesh):
    with pytest.raises(UserError, match=r"batch_size 100 is not divisible by the 8 devices: .*batch_size=96"):
        parallel.check_batch_size(100, mesh)
    parallel.check_batch_size(104, mesh)
