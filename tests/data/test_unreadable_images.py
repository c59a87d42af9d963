import pytest

from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.errors import UserError


def test_each_is_told_once_and_counted_once_over_all_epochs():
    told = []
    unreadable = UnreadableImages(2, told.append)
    assert len(unreadable.reasons) == 0
    for _ in range(3):
        unreadable.add([("a.jpg", "it is wet")])
        unreadable.add([("b.jpg", "it is torn"), ("a.jpg", "it is wet")])
        unreadable.add([])
    assert told == ["Unreadable: a.jpg: it is wet", "Unreadable: b.jpg: it is torn"]
    assert len(unreadable.reasons) == 2


def test_more_than_are_put_up_with_are_an_error_that_names_them():
    told = []
    unreadable = UnreadableImages(1, told.append)
    unreadable.add([("a.jpg", "wet")])
    unreadable.check()
    unreadable.add([("b.jpg", "torn")])
    with pytest.raises(UserError, match=r"^2 pictures .*max_unreadable allows 1: a\.jpg, b\.jpg\. Mend or remove"):
        unreadable.check()
    assert len(told) == 2


def test_a_count_of_all_processes_may_be_given():
    unreadable = UnreadableImages(3, lambda line: None)
    unreadable.add([("a.jpg", "wet")])
    unreadable.check(3)
    with pytest.raises(UserError, match=r"^4 pictures .*max_unreadable allows 3: a\.jpg"):
        unreadable.check(4)


def test_none_may_be_allowed():
    unreadable = UnreadableImages(0, lambda line: None)
    unreadable.add([("a.jpg", "wet")])
    with pytest.raises(UserError, match=r"1 picture .* allows 0: a\.jpg"):
        unreadable.check()


def test_of_very_many_only_the_first_are_named():
    unreadable = UnreadableImages(100, lambda line: None)
    unreadable.add([(f"{number}.jpg", "wet") for number in range(1500)])
    with pytest.raises(UserError) as error:
        unreadable.check()
    assert "1,500 pictures cannot be read, where dataset.max_unreadable allows 100" in str(error.value)
    assert "0.jpg, 1.jpg" in str(error.value)
    assert "19.jpg, and 1,480 more" in str(error.value)
    assert "20.jpg" not in str(error.value)
