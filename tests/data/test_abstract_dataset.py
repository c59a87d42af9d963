import logging

import jax
import pytest

from resnet_jax.data.abstract_dataset import AbstractFeed, describe_abstract_dataset
from resnet_jax.data.sources import open_sources
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as experiments
from resnet_jax.training.train_step import lower_train_step


@pytest.mark.parametrize(("feed", "image_size"), [("auto", None), ("resident", 12), ("streaming", None), ("auto", 4)])
def test_abstract_run_has_the_train_step_of_the_real_run(tiny_config, mesh, feed, image_size):
    """Settings, shapes, dtypes and shardings are the same, so the compiled program is the same."""
    tiny_config.dataset.feed, tiny_config.dataset.image_size = feed, image_size
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.3,), (0.2,)
    tiny_config.dataset.train_split = "train[:400]"
    abstract_run = experiments.build_abstract(tiny_config, mesh)
    real_run = experiments.build(tiny_config, mesh, open_sources("digits"), Reporter(active=False, max_unreadable=0))
    assert abstract_run.feed.abstract_inputs() == real_run.feed.abstract_inputs()
    assert abstract_run.abstract_state() == real_run.abstract_state()
    assert abstract_run.config.to_dict() == real_run.config.to_dict()
    assert lower_train_step(abstract_run).as_text() == lower_train_step(real_run).as_text()


def test_unprepared_dataset_is_not_downloaded(tiny_config, mesh, tmp_path, capsys, caplog):
    pytest.importorskip("tensorflow_datasets")
    caplog.set_level(logging.INFO, "resnet_jax")
    dataset = tiny_config.dataset
    dataset.name, dataset.data_dir = "imagenet2012", str(tmp_path)
    inputs = describe_abstract_dataset(tiny_config, mesh)
    assert (inputs.feed.image_shape, len(inputs.classes), dataset.feed) == ((224, 224, 3), 1000, "streaming")
    images, labels, _ = inputs.feed.abstract_inputs()
    assert (images.shape, labels.shape) == ((64, 224, 224, 3), (64,))
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("resnet_jax")]
    assert messages == ["Feed: streaming, because imagenet2012 has not been prepared and only its metadata is known."]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("image_size", "shape"), [(None, (28, 28, 1)), (40, (40, 40, 1))])
def test_abstract_images_have_the_size_of_the_feed(tiny_config, mesh, tmp_path, image_size, shape):
    pytest.importorskip("tensorflow_datasets")
    dataset = tiny_config.dataset
    dataset.name, dataset.data_dir, dataset.image_size = "mnist", str(tmp_path), image_size
    assert describe_abstract_dataset(tiny_config, mesh).feed.image_shape == shape


def test_unprepared_dataset_cannot_be_resident(tiny_config, mesh, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    dataset = tiny_config.dataset
    dataset.name, dataset.data_dir, dataset.feed = "cifar10", str(tmp_path), "resident"
    with pytest.raises(UserError, match="'cifar10' has not been prepared, so its size in memory is unknown"):
        describe_abstract_dataset(tiny_config, mesh)


def test_batch_larger_than_the_dataset_is_rejected(mesh):
    with pytest.raises(UserError, match=r"batch_size \(64\) exceeds the number of training examples \(10\)"):
        AbstractFeed((8, 8, 1), 10, 64, mesh)


def test_abstract_inputs_have_the_shardings_of_a_run(mesh):
    inputs = AbstractFeed((8, 8, 1), 640, 64, mesh, is_resident=True).abstract_inputs()
    assert [leaf.shape for leaf in jax.tree.leaves(inputs)] == [(640, 64), (640,), (10, 64)]
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(inputs))
    images, _, _ = AbstractFeed((8, 8, 1), 640, 64, mesh).abstract_inputs()
    assert images.sharding.shard_shape(images.shape) == (8, 8, 8, 1)
