import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("flask")
pytest.importorskip("onnxruntime")

from examples.serve_onnx import create_app, crop
from resnet_jax.export.export_model import export_model
from resnet_jax.export.program import make_program
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run

pytestmark = pytest.mark.slow


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


@pytest.fixture
def served(tiny_run, tmp_path):
    """A client of the server, and the model that it serves."""
    trained = load_run(str(tiny_run))
    path = str(tmp_path / "model.onnx")
    program = make_program(trained, ["probabilities"], (8, 8, 1))
    with Reporter(active=False) as reporter:
        export_model(program, path, np.zeros((1, 8, 8, 1), np.uint8), reporter)
    return create_app(path).test_client(), trained


def test_answer_is_the_prediction_of_the_model(served):
    client, trained = served
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    answer = client.post("/", data=png(pixels))
    assert answer.status_code == 200
    expected = trained.predict(pixels[None, ..., None])
    ranking = json.loads(answer.data)
    assert len(ranking) == 5
    assert ranking[0]["class"] == expected.names[0]
    assert ranking[0]["probability"] == pytest.approx(expected.probabilities.max(), abs=1e-5)


def test_request_without_an_image_is_answered_by_an_error(served):
    answer = served[0].post("/", data=b"no image")
    assert answer.status_code == 400
    assert b"The request is not an image" in answer.data
    assert served[0].post("/", data=png(np.zeros((8, 8), np.uint8))[:40]).status_code == 400


def test_image_of_16_bits_is_refused(served):
    answer = served[0].post("/", data=png(np.zeros((8, 8), np.uint16)))
    assert answer.status_code == 400
    assert b"more than 8 bits" in answer.data


def test_crop_is_the_central_part():
    """Of 20 x 10 pixels, resized to 10 x 5, the central square of side 3 covers 6 x 6 pixels."""
    pixels = np.zeros((20, 10), np.uint8)
    pixels[7:13, 2:8] = 200
    assert (crop(Image.fromarray(pixels), resize=5, size=3) == 200).all()
