"""Classify images over HTTP with a model from `main.py export --to=model.onnx`: an example to start from.

    pip install flask onnxruntime pillow
    flask --app "examples/serve_onnx:create_app('model.onnx')" run --port=8000
    curl --data-binary @cat.jpg http://127.0.0.1:8000/

It needs nothing of this project: the file says how to crop and resize images, and what the classes are. It must return
probabilities, take any batch size, and be of a run with `dataset.image_size`.
"""

import json

import flask
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MAX_BYTES = 20_000_000  # of an image
TOP = 5


def create_app(path: str) -> flask.Flask:
    """Return an application that answers each POST request, an image, with the most probable classes as JSON."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    shape = session.get_inputs()[0].shape[1:]  # height, width and channels
    app = flask.Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES

    @app.post("/")
    def classify():
        try:
            image = ImageOps.exif_transpose(Image.open(flask.request.stream))
            if image.mode.startswith(("I", "F")):
                flask.abort(400, "The request is an image of more than 8 bits per channel.")
            if image.has_transparency_data:  # As in training, transparent pixels lie on white.
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if shape[-1] == 1 else "RGB")
        except (OSError, Image.DecompressionBombError):
            flask.abort(400, "The request is not an image, or one that is damaged or too large.")
        pixels = crop(image, model["resize_shorter_side"], model["center_crop"]).reshape(1, *shape)
        (probabilities,) = session.run(["probabilities"], {"images": pixels})[0]
        best = np.argsort(-probabilities)[:TOP]
        return [{"class": model["classes"][label], "probability": float(probabilities[label])} for label in best]

    return app


def crop(image: Image.Image, resize: int, size: int) -> np.ndarray:
    """Resize the shorter side to `resize` pixels, and return the central square of `size` pixels."""
    side = round(min(image.size) * size / resize)
    left, top = ((length - side) // 2 for length in image.size)
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
