import base64
import io

import numpy as np
from PIL import Image

from resnet_jax.report.example_images import choose_galleries, data_uri


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def invert(images):
    return [255 - image for image in images]


def test_galleries_show_the_worst_mistakes_and_the_least_and_most_certain_predictions(scored):
    metrics = scored.metrics
    worst, _, least, most = choose_galleries(scored, "abcd", lambda position: f"test[{position}]", invert)
    mistakes = sorted(
        (index for index in range(600) if metrics.prediction[index] != metrics.label[index]),
        key=lambda index: -metrics.loss[index],
    )
    assert [image.name for image in worst.images] == [f"test[{index}]" for index in mistakes[:16]]
    first = worst.images[0]
    assert first.label == "abcd"[metrics.label[mistakes[0]]] != first.prediction
    assert np.isclose(first.probability, np.exp(-metrics.loss[mistakes[0]]))
    assert np.array_equal(decode(first.uri), scored.examples.images[mistakes[0]])
    assert np.array_equal(decode(first.overlay_uri), 255 - scored.examples.images[mistakes[0]])
    assert least.images[0].confidence == metrics.confidence.min()
    assert most.images[0].confidence == metrics.confidence.max()


def test_galleries_show_the_most_confident_mistakes_once(scored):
    """They are among the worst mistakes or in the gallery below these."""
    confidence = scored.metrics.confidence
    loss = np.random.default_rng(0).permutation(scored.metrics.loss)  # Otherwise both orders would be the same.
    scored = scored._replace(metrics=scored.metrics._replace(loss=loss))
    worst, others, _, _ = choose_galleries(scored, "abcd", str, invert)
    mistakes = np.flatnonzero(scored.metrics.prediction != scored.metrics.label)
    most_confident = mistakes[np.argsort(-confidence[mistakes])[:8]].tolist()
    shown_above = {int(image.name) for image in worst.images}
    shown_below = [int(image.name) for image in others.images]
    assert len(shown_below) == 8 and not shown_above & set(shown_below)
    assert set(most_confident) <= shown_above | set(shown_below)
    assert confidence[shown_below].tolist() == sorted(confidence[shown_below], reverse=True)


def test_gallery_of_other_mistakes_is_left_out_if_there_are_none(scored):
    mistakes = np.flatnonzero(scored.metrics.prediction != scored.metrics.label)
    prediction = scored.metrics.label.copy()
    prediction[mistakes[:3]] = scored.metrics.prediction[mistakes[:3]]
    scored = scored._replace(metrics=scored.metrics._replace(prediction=prediction))
    galleries = choose_galleries(scored, "abcd", str, invert)
    assert [gallery.title for gallery in galleries] == ["Worst mistakes", "Least certain", "Most certain"]
    assert len(galleries[0].images) == 3


def test_galleries_without_mistakes_leave_out_both_galleries_of_mistakes(scored):
    scored = scored._replace(metrics=scored.metrics._replace(prediction=scored.metrics.label))
    assert [gallery.title for gallery in choose_galleries(scored, "abcd", str, invert)] == [
        "Least certain",
        "Most certain",
    ]


def test_data_uri_keeps_every_pixel_of_small_images_and_shrinks_large_ones():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert data_uri(gray).startswith("data:image/png;")
    assert np.array_equal(decode(data_uri(gray)), gray[..., 0])
    large = data_uri(np.zeros((480, 224, 3), np.uint8))
    assert large.startswith("data:image/jpeg;") and decode(large).shape == (192, 90, 3)


def test_galleries_of_a_model_without_overlays_show_the_images_alone(scored):
    galleries = choose_galleries(scored, "abcd", str, lambda images: None)
    assert {image.overlay_uri for gallery in galleries for image in gallery.images} == {None}
