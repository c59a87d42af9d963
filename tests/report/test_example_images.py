import base64
import io

import numpy as np
from PIL import Image

from resnet_jax.report.example_images import choose, data_uri


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_the_worst_and_the_surest_are_shown(scored):
    outcomes = scored.outcomes
    worst, least, most = choose(scored, "abcd", lambda position: f"test[{position}]")
    mistakes = sorted(
        (index for index in range(600) if outcomes.prediction[index] != outcomes.label[index]),
        key=lambda index: -outcomes.loss[index],
    )
    assert [each.name for each in worst.pictures] == [f"test[{index}]" for index in mistakes[:16]]
    first = worst.pictures[0]
    assert first.label == "abcd"[outcomes.label[mistakes[0]]] != first.prediction
    assert np.isclose(first.probability, np.exp(-outcomes.loss[mistakes[0]]))
    assert np.array_equal(decoded(first.uri), scored.examples.images[mistakes[0]])
    assert least.pictures[0].confidence == outcomes.confidence.min()
    assert most.pictures[0].confidence == outcomes.confidence.max()


def test_without_mistakes_none_are_shown(scored):
    scored = scored._replace(outcomes=scored.outcomes._replace(prediction=scored.outcomes.label))
    assert [each.title for each in choose(scored, "abcd", str)] == ["Least certain", "Most certain"]


def test_small_pictures_keep_every_pixel_and_large_ones_are_made_smaller():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert data_uri(grey).startswith("data:image/png;")
    assert np.array_equal(decoded(data_uri(grey)), grey[..., 0])
    large = data_uri(np.zeros((480, 224, 3), np.uint8))
    assert large.startswith("data:image/jpeg;") and decoded(large).shape == (192, 90, 3)
