import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from resnet_jax import config as settings
from resnet_jax.data import splits
from resnet_jax.errors import UserError

SIZES = {"train": 1437, "test": 360}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", {"train": range(1437)}),
        ("train[:100]", {"train": range(100)}),
        ("train[1400:]", {"train": range(1400, 1437)}),
        ("train[-10:]", {"train": range(1427, 1437)}),
        ("train[:-10]", {"train": range(1427)}),
        ("train[:90%]", {"train": range(1293)}),
        ("train[90%:]", {"train": range(1293, 1437)}),
        ("train[-0:]", {"train": range(1437)}),
        ("train[:10]+test[:20]", {"train": range(10), "test": range(20)}),
        ("train[:10] + train[20:30]", {"train": [*range(10), *range(20, 30)]}),
    ],
)
def test_select_returns_indices_by_base_split(split, expected):
    selected = splits.select(split, SIZES)
    assert {name: indices.tolist() for name, indices in selected.items()} == {
        name: list(indices) for name, indices in expected.items()
    }


@pytest.mark.parametrize("split", ["train[:33%]", "train[7%:93%]", "train[-120:]", "test[5:10]", "train[:-1%]"])
def test_select_agrees_with_tfds(split):
    tfds = pytest.importorskip("tensorflow_datasets")
    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0, filename_template=None)
        for name, size in SIZES.items()
    }
    (expected,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    (selected,) = splits.select(split, SIZES).values()
    stop = SIZES[expected.splitname] if expected.to is None else expected.to
    assert (selected[0], selected[-1] + 1) == (expected.from_ or 0, stop)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("trian", "unknown split 'trian'. Did you mean train"),
        ("train[10", "malformed split"),
        ("train[10%]", "malformed split"),
        ("train[50:50]", "selects no examples"),
        ("train[:-0]", "selects no examples"),
        ("train[:5000]", "exceeds its 1,437 examples"),
        ("train[-5000:]", "exceeds its 1,437 examples"),
        ("train[:150%]", "exceeds its 1,437 examples"),
        ("train[:20]+train[10:30]", "selects some examples twice"),
    ],
)
def test_select_rejects_invalid_splits(split, message):
    with pytest.raises(UserError, match=message):
        splits.select(split, SIZES)


@pytest.mark.parametrize(
    ("chosen", "shared"),
    [
        (["train[:1000]", "train[1000:]", "test"], []),
        (["train", "train[1400:]", "test"], ["'train' and 'train[1400:]' share 37 examples"]),
        (["test", "test"], ["'test' and 'test' share 360 examples"]),
        (["train[:10]", "train[5:20]", "train[15:]"], ["share 5 examples", "share 5 examples"]),
    ],
)
def test_overlaps_counts_shared_examples_of_each_pair(chosen, shared):
    messages = splits.overlaps(chosen, SIZES)
    assert len(messages) == len(shared)
    assert all(part in message for part, message in zip(shared, messages, strict=True))


class TestResolve:
    @pytest.mark.parametrize(
        ("changed", "base_splits", "validation", "test"),
        [
            pytest.param({}, ("train",), "", "none", id="only a training split"),
            pytest.param({}, ("train", "test"), "", "test", id="test split"),
            pytest.param({}, ("train", "validation", "test"), "validation", "test", id="validation split"),
            pytest.param({}, ("train", "val"), "val", "none", id="val"),
            pytest.param({}, ("train", "valid"), "valid", "none", id="valid"),
            pytest.param({}, ("train", "valid", "validation"), "validation", "none", id="first of several names"),
            pytest.param({"train_split": "train+val"}, ("train", "val"), "", "none", id="trained on"),
            pytest.param({"train_split": "val[:50%]"}, ("train", "val"), "", "none", id="slice trained on"),
            pytest.param(
                {"test_split": "validation"}, ("train", "validation"), "", "validation", id="used as test split"
            ),
            pytest.param(
                {"test_split": "val"}, ("train", "val", "valid"), "valid", "val", id="another validation name"
            ),
            pytest.param({"train_split": "val-2"}, ("val-2", "val"), "val", "none", id="names with a common prefix"),
            pytest.param({"validation_split": "none"}, ("train", "val"), "none", "none", id="validation disabled"),
            pytest.param(
                {"validation_split": "train[:9]"},
                ("train", "val"),
                "train[:9]",
                "none",
                id="configured validation split",
            ),
            pytest.param({"test_split": "none"}, ("train", "test"), "", "none", id="test disabled"),
            pytest.param({"test_split": "train[:9]"}, ("train", "test"), "", "train[:9]", id="configured test split"),
        ],
    )
    def test_unset_splits_are_filled_in_from_the_base_splits(self, changed, base_splits, validation, test):
        dataset = settings.default().dataset
        dataset.update(changed)
        splits.resolve(dataset, base_splits)
        assert (dataset.validation_split, dataset.test_split) == (validation, test)


class TestHoldOut:
    labels = np.repeat(np.arange(4), [100, 50, 30, 20])

    def test_hold_out_divides_all_examples_and_takes_the_fraction_of_each_class(self):
        kept, held_out = splits.hold_out(self.labels, 0.1)
        np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(200))
        assert np.bincount(self.labels[held_out]).tolist() == [10, 5, 3, 2]

    def test_hold_out_of_no_examples_is_empty(self):
        kept, held_out = splits.hold_out(np.empty(0, np.int64), 0.1)
        assert (len(kept), len(held_out)) == (0, 0)

    def test_hold_out_is_deterministic(self):
        for first, second in zip(splits.hold_out(self.labels, 0.2), splits.hold_out(self.labels, 0.2), strict=True):
            np.testing.assert_array_equal(first, second)

    def test_hold_out_is_random_within_a_class(self):
        _, held_out = splits.hold_out(self.labels, 0.1)
        assert held_out[:10].tolist() not in (list(range(10)), list(range(90, 100)))

    def test_hold_out_takes_the_fraction_of_each_class_from_mixed_labels(self):
        """Each class is divided separately, so its fraction is exact."""
        _, held_out = splits.hold_out(np.array([3, 1] * 50), 0.1)
        assert np.bincount(held_out % 2).tolist() == [5, 5]


class TestFolds:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [53, 30, 4]))

    def folds(self, count):
        return [splits.hold_out_fold(self.labels, number, count) for number in range(1, count + 1)]

    def test_folds_are_disjoint_and_complete(self):
        for kept, held_out in self.folds(5):
            np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(87))
        held_out = np.concatenate([held_out for _, held_out in self.folds(5)])
        np.testing.assert_array_equal(np.sort(held_out), np.arange(87))

    def test_sizes_of_folds_and_of_their_classes_differ_by_at_most_one(self):
        counts = np.array([np.bincount(self.labels[held_out], minlength=3) for _, held_out in self.folds(5)])
        assert (np.ptp(counts, axis=0) <= 1).all()
        assert np.ptp(counts.sum(axis=1)) <= 1

    def test_classes_are_divided_as_by_scikit_learn(self):
        """Which examples are in a fold differs, but not how many of each class."""
        expected = [
            np.bincount(self.labels[held_out], minlength=3).tolist()
            for _, held_out in StratifiedKFold(4).split(self.labels, self.labels)
        ]
        counts = [np.bincount(self.labels[held_out], minlength=3).tolist() for _, held_out in self.folds(4)]
        assert sorted(counts) == sorted(expected)

    def test_folds_are_random_within_a_class(self):
        _, held_out = splits.hold_out_fold(np.zeros(100, int), 1, 10)
        assert held_out.tolist() not in (list(range(10)), list(range(0, 100, 10)))

    @pytest.mark.parametrize(
        ("split", "message"),
        [("fold:0/5", "no fold"), ("fold:6/5", "no fold"), ("fold:1/1", "no fold"), ("fold:1", "malformed fold")],
    )
    def test_fold_that_does_not_exist_is_rejected(self, split, message):
        config = settings.default()
        config.dataset.validation_split = split
        with pytest.raises(UserError, match=message):
            splits.check(config.dataset)

    def test_more_folds_than_examples_are_rejected(self):
        config = settings.default()
        config.dataset.validation_split = "fold:1/9"
        with pytest.raises(UserError, match="8 training examples are too few for 9 folds"):
            splits.hold_out_validation(config.dataset, np.zeros(8, int))
