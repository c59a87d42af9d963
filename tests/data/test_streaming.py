import itertools

import jax
import numpy as np
import pytest

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import ExampleLoader
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.sampling import UniformSampler
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.data.streaming import StreamedExamples, StreamingFeed
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import make_evaluate
from resnet_jax.models.factory import create_model
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter

BATCH, STEPS = 16, 6  # steps per epoch
DIGITS = 8, 8, 1


class DamagedSource:
    """Digits, some of which cannot be read."""

    def __init__(self, source, damaged):
        self._source, self._damaged = source, set(damaged)
        self.classes = source.classes

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        if index in self._damaged:
            raise Unreadable("it is wet")
        return self._source[index]


@pytest.fixture(scope="module")
def sources():
    return open_sources("digits")


@pytest.fixture
def subset(sources):
    """Six batches of digits, and a few left over."""
    return Subset.from_split(sources, f"train[:{STEPS * BATCH + 5}]")


def new_reporter(max_unreadable=100):
    return Reporter(active=False, max_unreadable=max_unreadable)


def make_feed(subset, mesh, num_workers=0, resized=False, num_epochs=3, batch_size=BATCH, max_unreadable=100):
    loader = ExampleLoader(subset, DIGITS, resized)
    scale = (0.3, 1.0) if resized else ()
    return StreamingFeed(
        loader,
        batch_size,
        UniformSampler(7, len(loader.subset)),
        scale,
        num_epochs,
        num_workers,
        mesh,
        new_reporter(max_unreadable),
    )


def load_batch(feed, step):
    return [np.asarray(array) for array in jax.jit(feed.take)(feed.inputs(step), step)]


def assert_same(first, second):
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right)


class TestStreamingFeed:
    def test_batches_are_those_of_a_resident_feed(self, subset, mesh):
        """Compare images and their order across the end of an epoch."""
        resident = ResidentFeed(read_examples(subset, new_reporter()), BATCH, UniformSampler(7, len(subset)), mesh)
        streaming = make_feed(subset, mesh)
        assert streaming.steps_per_epoch == resident.steps_per_epoch == STEPS
        assert (streaming.size, streaming.image_shape) == (resident.size, resident.image_shape)
        for step in range(STEPS - 2, STEPS + 3):
            assert_same(load_batch(streaming, step), load_batch(resident, step))
            assert_same([streaming.positions(step)], [resident.positions(step)])
        with pytest.raises(ValueError, match="is not the step whose batch was requested last"):
            streaming.positions(step - 1)
        streaming.close()

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_resumed_feed_continues_at_any_step(self, subset, mesh, num_workers):
        whole = make_feed(subset, mesh, resized=True)
        batches = [load_batch(whole, step) for step in range(STEPS + 3)]
        whole.close()
        resumed = make_feed(subset, mesh, num_workers, resized=True)
        for step in range(STEPS - 1, STEPS + 3):
            assert_same(load_batch(resumed, step), batches[step])
        resumed.close()

    def test_steps_can_be_requested_again_and_after_closing(self, subset, mesh):
        feed = make_feed(subset, mesh)
        first, second = load_batch(feed, 0), load_batch(feed, 1)
        assert (first[0] != second[0]).any()
        assert feed.inputs(1) is feed.inputs(1)
        assert_same(load_batch(feed, 1), second)
        assert_same(load_batch(feed, 0), first)
        feed.close()
        assert_same(load_batch(feed, 1), second)
        feed.close()
        feed.close()

    def test_feed_covers_all_steps_of_the_run(self, subset, mesh):
        feed = make_feed(subset, mesh, num_epochs=2)
        assert_same(load_batch(feed, 2 * STEPS - 1), load_batch(make_feed(subset, mesh, num_epochs=5), 2 * STEPS - 1))

    def test_batches_are_split_over_the_devices_as_abstract_inputs_say(self, subset, mesh):
        feed = make_feed(subset, mesh)
        inputs = feed.inputs(0)
        assert inputs.images.sharding.shard_shape(inputs.images.shape) == (BATCH // 8, *DIGITS)
        for abstract, real in zip(feed.abstract_inputs(), inputs, strict=True):
            assert (abstract.shape, abstract.dtype, abstract.sharding) == (real.shape, real.dtype, real.sharding)
        assert feed.streamed_inputs() == feed.abstract_inputs()
        assert not feed.supports_several_steps
        feed.close()

    @pytest.mark.parametrize("resized", [False, True])
    def test_crops_are_done_on_the_host_if_images_are_resized(self, subset, mesh, resized):
        assert make_feed(subset, mesh, resized=resized).crops_on_host == resized

    def test_batches_do_not_depend_on_the_number_of_devices(self, subset, mesh, single_device):
        feeds = [make_feed(subset, devices, resized=True) for devices in (mesh, single_device)]
        assert_same(*(load_batch(feed, 3) for feed in feeds))
        for feed in feeds:
            feed.close()

    def test_unreadable_images_are_logged_once_and_replaced(self, sources, mesh, caplog):
        source = DamagedSource(sources["train"], {3, 4})
        subset = Subset.from_split({"train": source}, "train[:16]")
        feed = make_feed(subset, mesh)
        for step in range(3):
            images, labels, positions = load_batch(feed, step)
            assert not {3, 4} & set(positions.tolist())
            assert images.shape == (BATCH, *DIGITS)
            assert np.sort(labels).tolist() == sorted(
                sources["train"][5 if index in (3, 4) else index][1] for index in range(16)
            )
        feed.close()
        assert sorted(caplog.messages) == ["Unreadable: train[3]: it is wet", "Unreadable: train[4]: it is wet"]

    def test_too_many_unreadable_images_stop_the_run(self, sources, mesh):
        subset = Subset.from_split({"train": DamagedSource(sources["train"], {3, 4})}, "train[:16]")
        feed = make_feed(subset, mesh, max_unreadable=1)
        with pytest.raises(UserError, match=r"2 images cannot be read, but .* allows 1: train\[[34]\], train"):
            feed.inputs(0)
        feed.close()

    def test_image_of_another_size_is_named(self, mesh):
        images = [np.zeros((8, 8, 1), np.uint8)] * 15 + [np.zeros((8, 9, 1), np.uint8)]

        class Uneven(ArraySource):
            def __init__(self):
                self.images, self.labels, self.classes = images, np.zeros(16, int), ("a",)

        feed = make_feed(Subset.from_split({"train": Uneven()}, "train"), mesh)
        with pytest.raises(
            UserError, match=r"train\[15\] has shape \[8, 9, 1\], but other images have shape \[8, 8, 1\]"
        ):
            feed.inputs(0)
        feed.close()

    def test_batch_larger_than_the_dataset_is_rejected(self, subset, mesh):
        with pytest.raises(
            UserError, match=r"batch_size \(128\) exceeds the number of training examples \(101\)\. Lower batch_size"
        ):
            make_feed(subset, mesh, batch_size=128)


@pytest.fixture
def model_and_variables():
    """Return a model and its variables."""
    model = create_model("tiny", 10)
    return model, model.init(jax.random.key(0), np.zeros((1, *DIGITS)), train=False)


def stream(subset):
    return StreamedExamples(ExampleLoader(subset, DIGITS, resized=False), None, 0, new_reporter())


class TestStreamedExamples:
    @pytest.mark.parametrize("devices", ["mesh", pytest.param("single_device", marks=pytest.mark.slow)])
    def test_each_example_is_scored_once_with_the_metrics_of_resident_ones(
        self, model_and_variables, sources, devices, request
    ):
        """The numbers of examples are one, one less than a batch, a batch, and one more than a batch."""
        mesh = request.getfixturevalue(devices)
        model, variables = model_and_variables
        variables = parallel.place(variables, parallel.replicated(mesh))
        evaluate = make_evaluate(model, Preprocess((0.5,), (0.25,)), BATCH, mesh)
        for size in (1, BATCH - 1, BATCH, BATCH + 1):
            subset = Subset.from_split(sources, f"test[:{size}]")
            metrics = evaluate(variables, stream(subset))
            assert metrics.position.tolist() == list(range(size))
            assert metrics.label.tolist() == [sources["test"][index][1] for index in range(size)]
            resident = evaluate(variables, read_examples(subset, new_reporter()))
            jax.tree.map(np.testing.assert_array_equal, metrics, resident)

    def test_unreadable_images_are_logged_and_not_scored(self, model_and_variables, sources, mesh, caplog):
        source = DamagedSource(sources["test"], {0, 17})
        model, variables = model_and_variables
        evaluate = make_evaluate(model, Preprocess((0.5,), (0.25,)), BATCH, mesh)
        examples = stream(Subset.from_split({"test": source}, "test[:20]"))
        assert evaluate(variables, examples).position.tolist() == [*range(1, 17), 18, 19]
        assert caplog.messages == ["Unreadable: test[0]: it is wet", "Unreadable: test[17]: it is wet"]

    def test_images_at_returns_images_as_they_are_scored(self, sources):
        subset = Subset.from_split(sources, "test[:20]")
        examples = StreamedExamples(ExampleLoader(subset, (6, 6, 1), resized=True), 7, 0, new_reporter())
        assert len(examples) == 20
        scored = np.concatenate([images for images, _ in examples.batches(8, np.arange(8))])
        np.testing.assert_array_equal(examples.images_at(np.array([13, 2])), scored[[13, 2]])

    def test_batches_can_be_iterated_partly_and_again(self, sources):
        examples = stream(Subset.from_split(sources, "test[:40]"))
        first = next(iter(examples.batches(8, np.arange(8))))
        again = list(itertools.islice(examples.batches(8, np.arange(8)), 2))
        np.testing.assert_array_equal(first[0], again[0][0])
        assert again[1][1].positions.tolist() == list(range(8, 16))
