import logging

import jax
import pytest

from resnet_jax.data.abstract_dataset import AbstractFeed, describe_abstract_dataset
from resnet_jax.data.sources import open_sources
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as setups
from resnet_jax.training.train_step import lower_train_step


@pytest.mark.parametrize(("feed", "image_size"), [("auto", None), ("resident", 12), ("streaming", None), ("auto", 4)])
def test_a_described_run_has_the_step_of_the_real_one(tiny_config, mesh, feed, image_size):
    """Same settings, shapes, types and places: what is compiled for it is what a run would compile."""
    tiny_config.dataset.feed, tiny_config.dataset.image_size = feed, image_size
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.3,), (0.2,)
    tiny_config.dataset.train_split = "train[:400]"
    described = setups.build_abstract(tiny_config, mesh)
    real = setups.build(tiny_config, mesh, open_sources("digits"), Reporter(active=False, max_unreadable=0))
    assert described.feed.abstract_inputs() == real.feed.abstract_inputs()
    assert described.abstract_state() == real.abstract_state()
    assert described.config.to_dict() == real.config.to_dict()
    assert lower_train_step(described, 1).as_text() == lower_train_step(real, 1).as_text()


def test_nothing_is_downloaded_for_a_set_that_is_not_there(tiny_config, mesh, tmp_path, capsys, caplog):
    pytest.importorskip("tensorflow_datasets")
    caplog.set_level(logging.INFO, "resnet_jax")
    dataset = tiny_config.dataset
    dataset.name, dataset.data_dir = "imagenet2012", str(tmp_path)
    inputs = describe_abstract_dataset(tiny_config, mesh)
    assert (inputs.feed.image_shape, len(inputs.classes), dataset.feed) == ((224, 224, 3), 1000, "streaming")
    images, labels = inputs.feed.abstract_inputs()
    assert (images.shape, labels.shape) == ((64, 224, 224, 3), (64,))
    assert caplog.messages == [
        "Feed: streaming, since imagenet2012 has not been prepared: it is known by its description alone."
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("image_size", "shape"), [(None, (28, 28, 1)), (40, (40, 40, 1))])
def test_pictures_of_one_size_are_described_as_they_are_fed(tiny_config, mesh, tmp_path, image_size, shape):
    pytest.importorskip("tensorflow_datasets")
    dataset = tiny_config.dataset
    dataset.name, dataset.data_dir, dataset.image_size = "mnist", str(tmp_path), image_size
    assert describe_abstract_dataset(tiny_config, mesh).feed.image_shape == shape


def test_a_set_that_is_not_there_cannot_be_resident(tiny_config, mesh, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    dataset = tiny_config.dataset
    dataset.name, dataset.data_dir, dataset.feed = "cifar10", str(tmp_path), "resident"
    with pytest.raises(UserError, match="'cifar10' has not been prepared, and how much memory it takes is not known"):
        describe_abstract_dataset(tiny_config, mesh)


def test_fewer_examples_than_a_batch_are_refused(mesh):
    with pytest.raises(UserError, match="batch_size 64 is more than the 10 training examples"):
        AbstractFeed((8, 8, 1), 10, 64, mesh)


def test_shapes_are_placed_as_a_run_places_them(mesh):
    inputs = AbstractFeed((8, 8, 1), 640, 64, mesh, is_resident=True).abstract_inputs()
    assert [leaf.shape for leaf in jax.tree.leaves(inputs)] == [(640, 64), (640,), (10, 64)]
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(inputs))
    images, _ = AbstractFeed((8, 8, 1), 640, 64, mesh).abstract_inputs()
    assert images.sharding.shard_shape(images.shape) == (8, 8, 8, 1)
