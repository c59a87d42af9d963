import itertools

import jax
import numpy as np
import pytest

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import Loader
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.data.streaming import StreamedExamples, StreamingFeed
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import make_evaluate
from resnet_jax.models.factory import create_model
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter

BATCH, STEPS = 16, 6  # steps an epoch
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
def selection(sources):
    """Six batches of digits, and a few left over."""
    return Subset.of(sources, f"train[:{STEPS * BATCH + 5}]")


def new_reporter(max_unreadable=100):
    return Reporter(active=False, max_unreadable=max_unreadable)


def feed_of(selection, mesh, num_workers=0, resized=False, num_epochs=3, batch_size=BATCH, max_unreadable=100):
    loader = Loader(selection, DIGITS, resized)
    scale = (0.3, 1.0) if resized else ()
    return StreamingFeed(loader, batch_size, 7, scale, num_epochs, num_workers, mesh, new_reporter(max_unreadable))


def batch_of(feed, step):
    return [np.asarray(part) for part in jax.jit(feed.take)(feed.inputs(step), step)]


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


class TestFeed:
    def test_gives_what_a_resident_feed_gives(self, selection, mesh):
        """The same pictures in the same order, over the end of an epoch."""
        resident = ResidentFeed(read_examples(selection, new_reporter()), BATCH, 7, mesh)
        streaming = feed_of(selection, mesh)
        assert streaming.steps_per_epoch == resident.steps_per_epoch == STEPS
        assert (streaming.size, streaming.image_shape) == (resident.size, resident.image_shape)
        for step in range(STEPS - 2, STEPS + 3):
            assert_same(batch_of(streaming, step), batch_of(resident, step))
            assert_same([streaming.positions(step)], [resident.positions(step)])
        with pytest.raises(ValueError, match="not the last one that was asked for"):
            streaming.positions(step - 1)
        streaming.close()

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_goes_on_at_any_step_as_if_it_had_never_stopped(self, selection, mesh, num_workers):
        whole = feed_of(selection, mesh, resized=True)
        batches = [batch_of(whole, step) for step in range(STEPS + 3)]
        whole.close()
        resumed = feed_of(selection, mesh, num_workers, resized=True)
        for step in range(STEPS - 1, STEPS + 3):
            assert_same(batch_of(resumed, step), batches[step])
        resumed.close()

    def test_may_be_asked_again_backwards_and_after_it_was_closed(self, selection, mesh):
        feed = feed_of(selection, mesh)
        first, second = batch_of(feed, 0), batch_of(feed, 1)
        assert (first[0] != second[0]).any()
        assert feed.inputs(1) is feed.inputs(1)
        assert_same(batch_of(feed, 1), second)
        assert_same(batch_of(feed, 0), first)
        feed.close()
        assert_same(batch_of(feed, 1), second)
        feed.close()
        feed.close()

    def test_gives_all_steps_of_the_run(self, selection, mesh):
        feed = feed_of(selection, mesh, num_epochs=2)
        assert_same(batch_of(feed, 2 * STEPS - 1), batch_of(feed_of(selection, mesh, num_epochs=5), 2 * STEPS - 1))

    def test_batches_are_split_over_the_devices_and_abstract_inputs_are_like_them(self, selection, mesh):
        feed = feed_of(selection, mesh)
        inputs = feed.inputs(0)
        assert inputs.images.sharding.shard_shape(inputs.images.shape) == (BATCH // 8, *DIGITS)
        for abstract, real in zip(feed.abstract_inputs(), inputs, strict=True):
            assert (abstract.shape, abstract.dtype, abstract.sharding) == (real.shape, real.dtype, real.sharding)
        feed.close()

    def test_another_number_of_devices_sees_the_same_batches(self, selection, mesh, single_device):
        feeds = [feed_of(selection, devices, resized=True) for devices in (mesh, single_device)]
        assert_same(*(batch_of(feed, 3) for feed in feeds))
        for feed in feeds:
            feed.close()

    def test_unreadable_pictures_are_told_once_and_the_batch_stays_whole(self, sources, mesh, caplog):
        source = DamagedSource(sources["train"], {3, 4})
        selection = Subset.of({"train": source}, "train[:16]")
        feed = feed_of(selection, mesh)
        for step in range(3):
            images, labels = batch_of(feed, step)
            assert images.shape == (BATCH, *DIGITS)
            assert np.sort(labels).tolist() == sorted(
                sources["train"][5 if index in (3, 4) else index][1] for index in range(16)
            )
        feed.close()
        assert sorted(caplog.messages) == ["Unreadable: train[3]: it is wet", "Unreadable: train[4]: it is wet"]

    def test_too_many_unreadable_pictures_end_the_run(self, sources, mesh):
        selection = Subset.of({"train": DamagedSource(sources["train"], {3, 4})}, "train[:16]")
        feed = feed_of(selection, mesh, max_unreadable=1)
        with pytest.raises(UserError, match=r"2 pictures cannot be read, where .* allows 1: train\[[34]\], train"):
            feed.inputs(0)
        feed.close()

    def test_a_picture_of_another_size_is_named(self, mesh):
        images = [np.zeros((8, 8, 1), np.uint8)] * 15 + [np.zeros((8, 9, 1), np.uint8)]

        class Uneven(ArraySource):
            def __init__(self):
                self.images, self.labels, self.classes = images, np.zeros(16, int), ("a",)

        feed = feed_of(Subset.of({"train": Uneven()}, "train"), mesh)
        with pytest.raises(UserError, match=r"train\[15\] has shape \[8, 9, 1\], others have \[8, 8, 1\]"):
            feed.inputs(0)
        feed.close()

    def test_a_batch_larger_than_the_set_is_refused(self, selection, mesh):
        with pytest.raises(UserError, match="batch_size 128 is more than the 101 training examples: lower it"):
            feed_of(selection, mesh, batch_size=128)


@pytest.fixture
def network():
    """A model and its variables."""
    model = create_model("tiny", 10)
    return model, model.init(jax.random.key(0), np.zeros((1, *DIGITS)), train=False)


def streamed(selection):
    return StreamedExamples(Loader(selection, DIGITS, resized=False), None, 0, new_reporter())


class TestExamplesToBeScored:
    @pytest.mark.parametrize("devices", ["mesh", "single_device"])
    def test_each_is_scored_once_with_the_outcome_of_the_resident_ones(self, network, sources, devices, request):
        """One, all but one of a batch, a batch, and one more."""
        mesh = request.getfixturevalue(devices)
        model, variables = network
        variables = parallel.place(variables, parallel.replicated(mesh))
        evaluate = make_evaluate(model, Preprocess((0.5,), (0.25,)), BATCH, mesh)
        for size in (1, BATCH - 1, BATCH, BATCH + 1):
            selection = Subset.of(sources, f"test[:{size}]")
            outcomes = evaluate(variables, streamed(selection))
            assert outcomes.position.tolist() == list(range(size))
            assert outcomes.label.tolist() == [sources["test"][index][1] for index in range(size)]
            resident = evaluate(variables, read_examples(selection, new_reporter()))
            jax.tree.map(np.testing.assert_array_equal, outcomes, resident)

    def test_the_unreadable_are_left_out_of_the_outcomes_and_told(self, network, sources, mesh, caplog):
        source = DamagedSource(sources["test"], {0, 17})
        model, variables = network
        evaluate = make_evaluate(model, Preprocess((0.5,), (0.25,)), BATCH, mesh)
        examples = streamed(Subset.of({"test": source}, "test[:20]"))
        assert evaluate(variables, examples).position.tolist() == [*range(1, 17), 18, 19]
        assert caplog.messages == ["Unreadable: test[0]: it is wet", "Unreadable: test[17]: it is wet"]

    def test_they_can_be_looked_at_as_they_are_scored(self, sources):
        selection = Subset.of(sources, "test[:20]")
        examples = StreamedExamples(Loader(selection, (6, 6, 1), resized=True), 7, 0, new_reporter())
        assert len(examples) == 20
        scored = np.concatenate([images for images, _ in examples.batches(8, np.arange(8))])
        np.testing.assert_array_equal(examples.images_at(np.array([13, 2])), scored[[13, 2]])

    def test_they_can_be_gone_through_partly_and_again(self, sources):
        examples = streamed(Subset.of(sources, "test[:40]"))
        first = next(iter(examples.batches(8, np.arange(8))))
        again = list(itertools.islice(examples.batches(8, np.arange(8)), 2))
        np.testing.assert_array_equal(first[0], again[0][0])
        assert again[1][1].positions.tolist() == list(range(8, 16))
