import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.inspect.scan import scan_images
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.terminal import Reporter
from tests.recording_reporter import RecordingReporter


def arrays(count, seed=0, channels=3):
    images = np.random.default_rng(seed).integers(0, 256, (count, 2, 3, channels), np.uint8)
    return ArraySource(images, np.arange(count) % 2, ("cat", "dog"))


def test_record_agrees_with_numpy(folder, noise):
    image = noise(30, 20)
    scanned = scan_images(open_sources(folder({"cat/a.png": image})), 0, Reporter(active=False))
    (record,) = scanned.records
    assert (record["label"], record["height"], record["width"], record["channels"]) == (0, 30, 20, 3)
    assert record["sums"].tolist() == image.sum(axis=(0, 1)).tolist()
    assert record["squares"].tolist() == (image.astype(np.int64) ** 2).sum(axis=(0, 1)).tolist()


def test_large_image_is_counted_in_chunks(monkeypatch, folder, noise):
    monkeypatch.setattr("resnet_jax.data.preprocess.PIXELS_AT_ONCE", 50)
    image = noise(30, 20)
    scanned = scan_images(open_sources(folder({"cat/a.png": image})), 0, Reporter(active=False))
    assert scanned.records[0]["sums"].tolist() == image.sum(axis=(0, 1)).tolist()


def test_digest_depends_on_shape_and_pixels(folder, noise):
    image = noise(4, 6)
    files = {
        "cat/a.png": image,
        "cat/b.bmp": image,
        "cat/c.png": image.reshape(6, 4, 3),
        "cat/d.png": noise(4, 6),
    }
    scanned = scan_images(open_sources(folder(files)), 0, Reporter(active=False))
    digests = {scanned.subset.name(at)[-5]: scanned.records[at]["digest"].tobytes() for at in range(4)}
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == 3


def test_splits_are_scanned_in_order():
    scanned = scan_images({"train": arrays(40), "test": arrays(30, seed=1)}, 0, Reporter(active=False))
    assert len(scanned.records) == 70
    assert scanned.positions("test[:2]+train[:1]").tolist() == [40, 41, 0]
    assert [scanned.split_at(at) for at in (0, 39, 40, 69)] == ["train", "train", "test", "test"]
    assert scanned.subset.name(41) == "test[1]"


def test_grayscale_record_uses_the_first_channel():
    source = arrays(3, channels=1)
    scanned = scan_images({"train": source}, 0, Reporter(active=False))
    assert scanned.records["sums"].tolist() == [[int(image.sum()), 0, 0] for image in source.images]


def test_unreadable_images_are_recorded_with_the_reason(folder, noise):
    file = io.BytesIO()
    Image.fromarray(noise(90, 90)).save(file, "JPEG")
    files = {
        "cat/good.png": noise(),
        "cat/empty.jpg": b"",
        "cat/text.jpg": b"no image",
        "cat/half.jpg": file.getvalue()[:2000],
    }
    scanned = scan_images(open_sources(folder(files)), 0, Reporter(active=False))
    reasons = {scanned.subset.name(at).rpartition("/")[2]: why for at, why in scanned.unreadable.items()}
    assert reasons.keys() == {"empty.jpg", "text.jpg", "half.jpg"}
    assert reasons["empty.jpg"] == "the file is empty"
    assert scanned.readable.sum() == 1
    assert scanned.records["sums"][~scanned.readable].sum() == 0


def test_scan_reports_progress():
    reporter = RecordingReporter()
    scan_images({"train": arrays(70)}, 0, reporter)
    assert reporter.progress == [("scanning images", done, 70) for done in (32, 64, 70)]


@pytest.mark.slow
def test_scan_with_processes_equals_scan_with_threads():
    sources = {"train": arrays(1500), "test": arrays(600, seed=1)}
    threads, processes = (
        scan_images(sources, 0, Reporter(active=False)),
        scan_images(sources, 2, Reporter(active=False)),
    )
    assert (threads.records == processes.records).all()


def test_bits_in_use_are_those_of_the_training_split(folder):
    """As in a run."""
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    sources = open_sources(folder({"train/cat/a.png": levels, "val/cat/b.png": 4 * levels}))
    reporter = Reporter(active=False)
    assert scan_images(sources, 0, reporter).subset.bit_depth == 14
    assert scan_images(sources, 0, reporter, train_split="train").subset.bit_depth == 12
    assert scan_images(sources, 0, reporter, train_split="missing").subset.bit_depth == 14
