import pytest

from resnet_jax.data import class_matching


def test_match_finds_each_class_of_equal_name_once():
    assert class_matching.match(["crane", "crow", "crane"], ["crane", "crane", "crow"]) == [0, 2, 1]


def test_missing_counts_classes_of_equal_name():
    assert class_matching.missing(["crane", "crow", "crane"], ["crow", "crane"]) == ["crane"]
    assert class_matching.missing(["crane", "crow"], ["crow", "crane"]) == []


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("cat", "Cat", "'cat' (label 0) and 'Cat' (label 1)"),
        ("cat", "cat ", "'cat' (label 0) and 'cat ' (label 1)"),
        ("hot dog", "hot  dog", "'hot dog' (label 0) and 'hot  dog' (label 1)"),
        ("caf\u00e9", "cafe\u0301", r"'caf\xe9' (label 0) and 'cafe\u0301' (label 1)"),
        ("cat", "cat\u200b", r"'cat' (label 0) and 'cat\u200b' (label 1)"),
        ("stra\u00dfe", "STRASSE", r"'stra\xdfe' (label 0) and 'STRASSE' (label 1)"),
    ],
)
def test_similar_shows_what_differs(first, second, shown):
    sentence = class_matching.similar([first, second, "dog"])
    assert sentence == f"Names of classes differ only in case, spaces or Unicode form: {shown}."


def test_similar_names_equal_classes():
    sentence = class_matching.similar(["crane", "crow", "crane"])
    assert sentence == "Names of classes are equal or nearly equal: 'crane' (label 0) and 'crane' (label 2)."


def test_different_names_are_not_similar():
    assert class_matching.similar(["cat", "cats", "c++", "c", "1", "11"]) is None
