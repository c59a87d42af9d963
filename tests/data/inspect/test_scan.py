import io

import numpy as np
from PIL import Image

from resnet_jax.data.inspect.scan import look
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.terminal import Reporter
from tests.recording_reporter import RecordingReporter


def arrays(count, seed=0, channels=3):
    images = np.random.default_rng(seed).integers(0, 256, (count, 2, 3, channels), np.uint8)
    return ArraySource(images, np.arange(count) % 2, ("cat", "dog"))


def test_a_record_holds_what_numpy_says(folder, noise):
    picture = noise(30, 20)
    looked = look(open_sources(folder({"cat/a.png": picture})), 0, Reporter(active=False))
    (record,) = looked.records
    assert (record["label"], record["height"], record["width"], record["channels"]) == (0, 30, 20, 3)
    assert record["sums"].tolist() == picture.sum(axis=(0, 1)).tolist()
    assert record["squares"].tolist() == (picture.astype(np.int64) ** 2).sum(axis=(0, 1)).tolist()


def test_pictures_of_more_than_a_band_are_counted_in_full(monkeypatch, folder, noise):
    monkeypatch.setattr("resnet_jax.data.inspect.scan.BAND", 50)
    picture = noise(30, 20)
    looked = look(open_sources(folder({"cat/a.png": picture})), 0, Reporter(active=False))
    assert looked.records[0]["sums"].tolist() == picture.sum(axis=(0, 1)).tolist()


def test_the_digest_is_of_what_a_picture_looks_like(folder, noise):
    picture = noise(4, 6)
    files = {
        "cat/a.png": picture,
        "cat/b.bmp": picture,
        "cat/c.png": picture.reshape(6, 4, 3),
        "cat/d.png": noise(4, 6),
    }
    looked = look(open_sources(folder(files)), 0, Reporter(active=False))
    digests = {looked.selection.name(at)[-5]: looked.records[at]["digest"].tobytes() for at in range(4)}
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == 3


def test_all_splits_are_looked_at_one_after_another():
    looked = look({"train": arrays(40), "test": arrays(30, seed=1)}, 0, Reporter(active=False))
    assert len(looked.records) == 70
    assert looked.positions("test[:2]+train[:1]").tolist() == [40, 41, 0]
    assert [looked.split_of(at) for at in (0, 39, 40, 69)] == ["train", "train", "test", "test"]
    assert looked.selection.name(41) == "test[1]"


def test_grey_pictures():
    source = arrays(3, channels=1)
    looked = look({"train": source}, 0, Reporter(active=False))
    assert looked.records["sums"].tolist() == [[int(image.sum()), 0, 0] for image in source.images]


def test_what_cannot_be_read_is_told_and_left_blank(folder, noise):
    file = io.BytesIO()
    Image.fromarray(noise(90, 90)).save(file, "JPEG")
    files = {
        "cat/good.png": noise(),
        "cat/empty.jpg": b"",
        "cat/text.jpg": b"no picture",
        "cat/half.jpg": file.getvalue()[:2000],
    }
    looked = look(open_sources(folder(files)), 0, Reporter(active=False))
    reasons = {looked.selection.name(at).rpartition("/")[2]: why for at, why in looked.unreadable.items()}
    assert reasons.keys() == {"empty.jpg", "text.jpg", "half.jpg"}
    assert reasons["empty.jpg"] == "the file is empty"
    assert looked.readable.sum() == 1
    assert looked.records["sums"][~looked.readable].sum() == 0


def test_progress_is_told_to_the_end():
    reporter = RecordingReporter()
    look({"train": arrays(70)}, 0, reporter)
    assert reporter.progress == [("scanning images", done, 70) for done in (32, 64, 70)]


def test_processes_see_what_threads_see():
    sources = {"train": arrays(1500), "test": arrays(600, seed=1)}
    threads, processes = look(sources, 0, Reporter(active=False)), look(sources, 2, Reporter(active=False))
    assert (threads.records == processes.records).all()
