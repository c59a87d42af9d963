import itertools

import numpy as np

from resnet_jax.data.inspect import summary
from resnet_jax.data.sources import ArraySource


def lines_of(examined, heading):
    """What stands beneath a heading of the report: the indented lines up to the next one."""
    lines = summary.report(examined, None).splitlines()
    beneath = itertools.takewhile(lambda line: not line or line.startswith(" "), lines[lines.index(heading) + 1 :])
    return "\n".join(line.strip() for line in beneath).strip().splitlines()


def many_classes(count):
    labels = np.concatenate([np.full(number + 1, number) for number in range(count)])
    images = np.arange(len(labels) * 3).astype(np.uint16).view(np.uint8).reshape(len(labels), 1, 2, 3)
    return {"train": ArraySource(images, labels, tuple(f"class {number}" for number in range(count)))}


def test_a_good_folder(examine, folder, noise):
    name = folder({"train/cat/a.png": noise(10, 20), "train/dog/b.png": noise(40, 30), "val/dog/c.png": noise(5, 5)})
    examined = examine(name, validation_split="val", image_size=8)
    report = summary.report(examined, "/tmp/sheet.png")
    assert report.startswith(name)
    for line in (
        "  train         2           0        2",
        "  A run takes 2 for training (train), 1 for validation (val).",
        "  dog        1    1  ██████████████████████████████",
        "  train  10 x 20   10 x 20  40 x 30          2",
        "  Enlarged, for the short side has less than 8 pixels: 1 of 3 (33.3%)",
        "  /tmp/sheet.png, with up to 8 training pictures of each class",
    ):
        assert line in report.splitlines()
    assert report.splitlines()[-1] == "  - classes that val lacks: cat"
    assert "Nothing here would spoil a run." in report


def test_channels_can_be_pasted(examine):
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    examined = examine({"train": ArraySource(images, np.array([0, 1]), ("cat", "dog"))})
    assert lines_of(examined, "Channels")[0] == "--config.dataset.mean='(0.5,)' --config.dataset.std='(0.5,)'"


def test_of_many_classes_the_ends_are_shown(examine):
    assert len(lines_of(examine(many_classes(30)), "Classes")) == 2 + 30
    told, _, _, _, *shown = lines_of(examine(many_classes(31)), "Classes")
    assert told == "The 10 largest and the 10 smallest in train, of 31:"
    assert [int(line.split()[1]) for line in shown] == [*range(30, 20, -1), *range(9, -1, -1)]


def test_long_lists_are_cut(examine, folder, noise):
    examined = examine(folder({"cat/a.png": noise(), **{f"cat/{number}.txt": b"" for number in range(23)}}))
    shown = lines_of(examined, "Ignored")
    assert shown[19].endswith(".txt")
    assert shown[20] == "... and 3 more"
    assert len(examined.ignored) == 23


def test_copies_are_shown_with_labels_where_these_differ(examine, folder, noise):
    picture, other = noise(), noise()
    examined = examine(
        folder({"cat/a.png": picture, "dog/b.png": picture, "cat/c.png": other, "cat/d.png": other}), max_unreadable=0
    )
    shown = " ".join(lines_of(examined, "Repeated"))
    assert "a.png (cat)" in shown and "b.png (dog)" in shown
    assert "c.png (cat)" not in shown and "c.png" in shown


def test_spoilers_come_before_what_is_worth_knowing(examine, folder, noise):
    examined = examine(folder({"cat/a.png": noise(), "cat/b.txt": b""}), batch_size=2)
    shown = lines_of(examined, "Verdict")
    assert shown[0] == "Would spoil a run:"
    assert shown[1].startswith("- batch_size 2 is more than the 1 training examples")
    assert shown[3] == "Worth knowing:"
