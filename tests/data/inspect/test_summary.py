import itertools

import numpy as np

from resnet_jax.data.inspect import summary
from resnet_jax.data.sources import ArraySource


def section_lines(inspection, heading):
    """Return the indented lines below a heading of the report."""
    lines = summary.report(inspection, None).splitlines()
    below = itertools.takewhile(lambda line: not line or line.startswith(" "), lines[lines.index(heading) + 1 :])
    return "\n".join(line.strip() for line in below).strip().splitlines()


def many_classes(count):
    labels = np.concatenate([np.full(number + 1, number) for number in range(count)])
    images = np.arange(len(labels) * 3).astype(np.uint16).view(np.uint8).reshape(len(labels), 1, 2, 3)
    return {"train": ArraySource(images, labels, tuple(f"class {number}" for number in range(count)))}


def test_report_of_a_good_folder(examine, folder, noise):
    name = folder({"train/cat/a.png": noise(10, 20), "train/dog/b.png": noise(40, 30), "val/dog/c.png": noise(5, 5)})
    inspection = examine(name, validation_split="val", image_size=8)
    report = summary.report(inspection, "/tmp/sheet.png")
    assert report.startswith(name)
    for line in (
        "  train       2           0        2",
        "  A run uses 2 for training (train), 1 for validation (val).",
        "  dog        1    1  ██████████████████████████████",
        "  train  10 x 20   10 x 20  40 x 30               2",
        "  Enlarged because the short side has fewer than 8 pixels: 1 of 3 (33.3%)",
        "  /tmp/sheet.png, with up to 8 training images of each class",
    ):
        assert line in report.splitlines()
    assert report.splitlines()[-1] == "  - Classes missing in val: cat."
    assert "Nothing here would spoil a run." in report


def test_channel_statistics_are_printed_as_flags(examine):
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    inspection = examine({"train": ArraySource(images, np.array([0, 1]), ("cat", "dog"))})
    assert section_lines(inspection, "Channels")[0] == "--config.dataset.mean='(0.5,)' --config.dataset.std='(0.5,)'"


def test_only_the_largest_and_smallest_of_many_classes_are_shown(examine):
    assert len(section_lines(examine(many_classes(30)), "Classes")) == 2 + 30
    title, _, _, _, *shown = section_lines(examine(many_classes(31)), "Classes")
    assert title == "The 10 largest and the 10 smallest classes in train, of 31:"
    assert [int(line.split()[1]) for line in shown] == [*range(30, 20, -1), *range(9, -1, -1)]


def test_long_lists_are_truncated(examine, folder, noise):
    inspection = examine(folder({"cat/a.png": noise(), **{f"cat/{number}.txt": b"" for number in range(23)}}))
    shown = section_lines(inspection, "Ignored")
    assert shown[19].endswith(".txt")
    assert shown[20] == "... and 3 more"
    assert len(inspection.ignored) == 23


def test_copies_are_shown_with_labels_if_these_differ(examine, folder, noise):
    relabeled, copied = noise(), noise()
    inspection = examine(
        folder({"cat/a.png": relabeled, "dog/b.png": relabeled, "cat/c.png": copied, "cat/d.png": copied}),
        max_unreadable=0,
    )
    shown = " ".join(section_lines(inspection, "Repeated"))
    assert "a.png (cat)" in shown and "b.png (dog)" in shown
    assert "c.png (cat)" not in shown and "c.png" in shown


def test_problems_come_before_facts_worth_knowing(examine, folder, noise):
    inspection = examine(folder({"cat/a.png": noise(), "dog/b.png": noise(), "dog/c.txt": b""}), batch_size=3)
    shown = section_lines(inspection, "Verdict")
    assert shown[0] == "Would spoil a run:"
    assert shown[1].startswith("- batch_size (3) exceeds the number of training examples (2).")
    assert shown[3] == "Worth knowing:"
