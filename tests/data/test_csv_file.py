import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.image_list import ImageList
from resnet_jax.data.sources import canonical_name, is_on_this_machine, open_sources
from resnet_jax.errors import UserError

SEVERAL = "image,labels,split\na.png,sea|beach,train\nb.png,,train\nsub/c.png,beach | sea,val\nd.png,forest,train\n"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a CSV file and the images that it lists, and returns the name of the dataset."""

    def write(text, images=("a.png", "b.png", "sub/c.png", "d.png")):
        for number, image in enumerate(images):
            (tmp_path / image).parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / image)
        (tmp_path / "labels.csv").write_text(text)
        return f"csv:{tmp_path}/labels.csv"

    return write


def labels_by_image(source):
    """Return the names of the labels of each image, by the name of its file."""
    rows = source.label_sets[source.labels]
    return {
        source.name(index).rpartition("/")[2]: [source.classes[number] for number in np.flatnonzero(row)]
        for index, row in enumerate(rows)
    }


def test_images_have_any_number_of_labels(write):
    sources = open_sources(write(SEVERAL))
    assert sources["train"].classes == sources["val"].classes == ("beach", "forest", "sea")
    assert labels_by_image(sources["train"]) == {"a.png": ["beach", "sea"], "b.png": [], "d.png": ["forest"]}
    assert labels_by_image(sources["val"]) == {"c.png": ["beach", "sea"]}


def test_splits_share_their_label_sets(write):
    """So a label means the same in each split."""
    sources = open_sources(write(SEVERAL))
    assert sources["train"].label_sets is sources["val"].label_sets
    assert len(sources["train"].label_sets) == 3


def test_order_of_the_rows_makes_no_difference(write):
    header, *rows = SEVERAL.splitlines()
    first = open_sources(write(SEVERAL))
    second = open_sources(write("\n".join([header, *reversed(rows)])))
    for split, source in first.items():
        assert [source.name(index) for index in range(len(source))] == [
            second[split].name(index) for index in range(len(source))
        ]
        np.testing.assert_array_equal(source.labels, second[split].labels)
        assert source.content_digest == second[split].content_digest


def test_images_have_one_label_each_with_the_column_label(write):
    (source,) = open_sources(write("image,label\na.png,cat\nb.png,dog\nd.png,cat\n")).values()
    assert source.label_sets is None
    assert sorted(source.labels.tolist()) == [0, 0, 1]


def test_example_is_a_file_with_its_label(write):
    source = open_sources(write(SEVERAL))["val"]
    content, label = source[0]
    assert content.startswith(b"\x89PNG")
    assert label == source.labels[0]


def test_missing_file_after_opening_is_unreadable(write, tmp_path):
    source = open_sources(write(SEVERAL))["val"]
    (tmp_path / "sub" / "c.png").unlink()
    with pytest.raises(Unreadable):
        source[0]


def test_slices_contain_all_labels_in_proportion(write):
    names = [f"{number}.png" for number in range(40)]
    text = "image,labels\n" + "".join(f"{name},{'a' if number < 20 else 'a|b'}\n" for number, name in enumerate(names))
    source = open_sources(write(text, names))["train"]
    assert sorted(np.bincount(source.labels[:10]).tolist()) == [5, 5]


def test_content_digest_changes_with_the_labels(write):
    first = open_sources(write(SEVERAL))["train"].content_digest
    assert open_sources(write(SEVERAL))["train"].content_digest == first
    assert open_sources(write(SEVERAL.replace("forest", "sea")))["train"].content_digest != first


def test_content_digest_changes_with_the_combinations_of_labels(tmp_path):
    """The files, their numbers and the classes stay the same."""
    sets = np.eye(2, dtype=bool)
    digests = {
        ImageList(str(tmp_path), {"a.png": 0, "b.png": 1}, "xy", value).content_digest for value in (sets, ~sets)
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,labels\na.png,x\n", r"needs a column image, and either label or labels \(it has file, labels\)"),
        ("image,label,labels\na.png,x,y\n", "needs a column image, and either label or labels"),
        ("image,labels\n", "lists no images"),
        ("", r"needs a column image.*\(it has none\)"),
        ("image,labels\na.png,x\na.png,y\n", r"lists images more than once \(a\.png\)"),
        ("image,labels\na.png,x\nz.png,y\n", r"lists images that do not exist \(z\.png\)\. Paths are relative"),
        ("image,labels\na.png,x,train\n", r"too many or too few values \(lines 2\)"),
        ("image,labels\na.png\n", r"too many or too few values \(lines 2\)"),
        ("image,label\na.png,\n", r"images without a label \(a\.png\)"),
        ("image,labels\na.png,\n", "has no labels"),
        ("image,labels\na.png,x\n./a.png,y\n", r"lists images more than once \(a\.png\)"),
        ("image,labels\n\na.png,x\nb.png\n", r"too many or too few values \(lines 4\)"),
    ],
)
def test_mistakes_are_named(write, text, message):
    with pytest.raises(UserError, match=message):
        open_sources(write(text))


def test_file_that_is_not_utf8_is_rejected(write, tmp_path):
    name = write(SEVERAL)
    (tmp_path / "labels.csv").write_bytes(b"image,labels\n\xff\xfe,x\n")
    with pytest.raises(UserError, match="is not a CSV file in UTF-8"):
        open_sources(name)


def test_missing_file_is_rejected(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        open_sources(f"csv:{tmp_path}/labels.csv")


def test_moved_file_is_found(write, tmp_path):
    write(SEVERAL)
    assert open_sources("csv:/nowhere/labels.csv", str(tmp_path / "labels.csv"))["train"].classes[0] == "beach"


def test_name_is_canonical_and_needs_no_download(monkeypatch):
    monkeypatch.chdir("/tmp")
    assert canonical_name("csv:labels.csv") == "csv:/tmp/labels.csv"
    assert is_on_this_machine("csv:/tmp/labels.csv")
