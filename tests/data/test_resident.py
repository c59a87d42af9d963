import jax
import numpy as np
import pytest

from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.sampling import UniformSampler, epoch_order
from resnet_jax.errors import UserError


def numbered_examples(size):
    images = np.arange(size, dtype=np.uint8)[:, None, None, None].repeat(2, axis=1)
    return InMemoryExamples(images, np.arange(size, dtype=np.int32), np.arange(size))


def test_epoch_has_its_own_order_and_contains_each_example_at_most_once(mesh):
    feed = ResidentFeed(numbered_examples(100), 16, UniformSampler(0, 100), mesh)
    assert (feed.size, feed.steps_per_epoch, feed.image_shape) == (100, 6, (2, 1, 1))
    orders = [np.asarray(feed.inputs(6 * epoch).order) for epoch in (0, 1, 0)]
    assert [order.shape for order in orders] == [(6, 16)] * 3
    assert all(len(np.unique(order)) == 96 for order in orders)
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(orders[0], orders[2])
    np.testing.assert_array_equal(orders[1].ravel(), epoch_order(0, 1, 100)[:96])


def test_steps_of_an_epoch_share_their_inputs(mesh):
    feed = ResidentFeed(numbered_examples(100), 16, UniformSampler(0, 100), mesh)
    assert feed.inputs(6) is feed.inputs(11)
    assert feed.inputs(12).order is not feed.inputs(11).order
    assert feed.inputs(12).pixels is feed.inputs(0).pixels


def test_every_example_is_used_within_a_few_epochs(mesh):
    feed = ResidentFeed(numbered_examples(100), 16, UniformSampler(0, 100), mesh)
    used = np.concatenate([np.ravel(feed.inputs(6 * epoch).order) for epoch in range(5)])
    assert len(np.unique(used)) == 100


def test_order_depends_on_the_seed_and_not_on_the_devices(mesh, single_device):
    def order(seed, devices):
        return np.asarray(ResidentFeed(numbered_examples(64), 16, UniformSampler(seed, 64), devices).inputs(12).order)

    np.testing.assert_array_equal(order(0, mesh), order(0, single_device))
    assert (order(0, mesh) != order(1, mesh)).any()


def test_batch_contains_the_examples_of_its_step_split_over_the_devices(mesh):
    feed = ResidentFeed(numbered_examples(100), 16, UniformSampler(0, 100), mesh)
    step = 2 * feed.steps_per_epoch + 4
    inputs = feed.inputs(step)
    images, labels, positions = jax.jit(feed.take)(inputs, step)
    np.testing.assert_array_equal(labels, inputs.order[4])
    np.testing.assert_array_equal(labels, positions)  # The label of each example is its position.
    np.testing.assert_array_equal(positions, feed.positions(step))
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    np.testing.assert_array_equal(images[:, 1, 0, 0], labels)
    assert images.dtype == np.uint8
    assert images.sharding.shard_shape(images.shape) == (2, 2, 1, 1)


def test_abstract_inputs_match_the_real_ones(mesh):
    feed = ResidentFeed(numbered_examples(100), 16, UniformSampler(0, 100), mesh)
    for abstract, real in zip(feed.abstract_inputs(), feed.inputs(0), strict=True):
        assert (abstract.shape, abstract.dtype, abstract.sharding) == (real.shape, real.dtype, real.sharding)
    assert feed.streamed_inputs() == ()
    assert (feed.supports_several_steps, feed.crops_on_host) == (True, False)


def test_batch_larger_than_the_dataset_is_rejected(mesh):
    with pytest.raises(UserError, match=r"batch_size \(128\) exceeds the number of training examples \(100\)"):
        ResidentFeed(numbered_examples(100), 128, UniformSampler(0, 100), mesh)
