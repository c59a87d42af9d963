import numpy as np
import pytest

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
def test_select(split, expected):
    selected = splits.select(split, SIZES)
    assert {name: indices.tolist() for name, indices in selected.items()} == {
        name: list(indices) for name, indices in expected.items()
    }


@pytest.mark.parametrize("split", ["train[:33%]", "train[7%:93%]", "train[-120:]", "test[5:10]", "train[:-1%]"])
def test_reads_splits_as_tfds_does(split):
    tfds = pytest.importorskip("tensorflow_datasets")
    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0, filename_template=None)
        for name, size in SIZES.items()
    }
    (theirs,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    (ours,) = splits.select(split, SIZES).values()
    assert (ours[0], ours[-1] + 1) == (theirs.from_ or 0, SIZES[theirs.splitname] if theirs.to is None else theirs.to)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("trian", "unknown split 'trian'. Did you mean train"),
        ("train[10", "cannot read the split"),
        ("train[10%]", "cannot read the split"),
        ("train[50:50]", "holds no examples"),
        ("train[:-0]", "holds no examples"),
        ("train[:5000]", "goes beyond its 1,437 examples"),
        ("train[-5000:]", "goes beyond its 1,437 examples"),
        ("train[:150%]", "goes beyond its 1,437 examples"),
        ("train[:20]+train[10:30]", "names some examples twice"),
    ],
)
def test_wrong_splits_are_refused(split, message):
    with pytest.raises(UserError, match=message):
        splits.select(split, SIZES)


def test_shared_examples_are_refused_and_counted():
    splits.check_disjoint("train[:1000]", "train[1000:]", SIZES)
    splits.check_disjoint("train", "test", SIZES)
    with pytest.raises(UserError, match=r"'train' and 'train\[1400:\]' share 37 examples"):
        splits.check_disjoint("train", "train[1400:]", SIZES)


class TestResolve:
    @pytest.mark.parametrize(
        ("changed", "there", "validation", "test"),
        [
            pytest.param({}, ("train",), "", "none", id="a set of one split"),
            pytest.param({}, ("train", "test"), "", "test", id="a test split is for the test"),
            pytest.param({}, ("train", "validation", "test"), "validation", "test", id="its own validation split"),
            pytest.param({}, ("train", "val"), "val", "none", id="by the name of folders"),
            pytest.param({}, ("train", "valid"), "valid", "none", id="by still another name"),
            pytest.param({}, ("train", "valid", "validation"), "validation", "none", id="the first name of several"),
            pytest.param({"train_split": "train+val"}, ("train", "val"), "", "none", id="not one that is trained on"),
            pytest.param({"train_split": "val[:50%]"}, ("train", "val"), "", "none", id="not a part of it either"),
            pytest.param(
                {"test_split": "validation"}, ("train", "validation"), "", "validation", id="not the test split"
            ),
            pytest.param({"test_split": "val"}, ("train", "val", "valid"), "valid", "val", id="but another one"),
            pytest.param({"train_split": "val-2"}, ("val-2", "val"), "val", "none", id="names that begin alike"),
            pytest.param({"validation_split": "none"}, ("train", "val"), "none", "none", id="without as it was asked"),
            pytest.param({"validation_split": "train[:9]"}, ("train", "val"), "train[:9]", "none", id="what was named"),
            pytest.param({"test_split": "none"}, ("train", "test"), "", "none", id="no test as it was asked"),
            pytest.param({"test_split": "train[:9]"}, ("train", "test"), "", "train[:9]", id="the test that was named"),
        ],
    )
    def test_fills_in_what_is_left_open_with_what_the_set_has(self, changed, there, validation, test):
        dataset = settings.default().dataset
        dataset.update(changed)
        splits.resolve(dataset, there)
        assert (dataset.validation_split, dataset.test_split) == (validation, test)


class TestHoldOut:
    labels = np.repeat(np.arange(4), [100, 50, 30, 20])

    def test_parts_all_examples_and_takes_the_fraction_of_each_class(self):
        kept, held_out = splits.hold_out(self.labels, 0.1)
        np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(200))
        assert np.bincount(self.labels[held_out]).tolist() == [10, 5, 3, 2]

    def test_is_the_same_each_time(self):
        for one, other in zip(splits.hold_out(self.labels, 0.2), splits.hold_out(self.labels, 0.2), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_chooses_at_random_within_a_class(self):
        _, held_out = splits.hold_out(self.labels, 0.1)
        assert held_out[:10].tolist() not in (list(range(10)), list(range(90, 100)))

    def test_does_not_depend_on_the_order_of_other_classes(self):
        """Each class is parted by itself, so that its share stays exact."""
        _, held_out = splits.hold_out(np.array([3, 1] * 50), 0.1)
        assert np.bincount(held_out % 2).tolist() == [5, 5]
