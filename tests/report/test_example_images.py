import base64
import io

import numpy as np
from PIL import Image

from resnet_jax.report.example_images import choose_galleries, data_uri


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_galleries_show_the_worst_mistakes_and_the_least_and_most_certain_predictions(scored):
    metrics = scored.metrics
    worst, least, most = choose_galleries(scored, "abcd", lambda position: f"test[{position}]")
    mistakes = sorted(
        (index for index in range(600) if metrics.prediction[index] != metrics.label[index]),
        key=lambda index: -metrics.loss[index],
    )
    assert [image.name for image in worst.images] == [f"test[{index}]" for index in mistakes[:16]]
    first = worst.images[0]
    assert first.label == "abcd"[metrics.label[mistakes[0]]] != first.prediction
    assert np.isclose(first.probability, np.exp(-metrics.loss[mistakes[0]]))
    assert np.array_equal(decode(first.uri), scored.examples.images[mistakes[0]])
    assert least.images[0].confidence == metrics.confidence.min()
    assert most.images[0].confidence == metrics.confidence.max()


def test_galleries_without_mistakes_leave_out_the_worst_mistakes(scored):
    scored = scored._replace(metrics=scored.metrics._replace(prediction=scored.metrics.label))
    assert [gallery.title for gallery in choose_galleries(scored, "abcd", str)] == ["Least certain", "Most certain"]


def test_data_uri_keeps_every_pixel_of_small_images_and_shrinks_large_ones():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert data_uri(gray).startswith("data:image/png;")
    assert np.array_equal(decode(data_uri(gray)), gray[..., 0])
    large = data_uri(np.zeros((480, 224, 3), np.uint8))
    assert large.startswith("data:image/jpeg;") and decode(large).shape == (192, 90, 3)
