"""Milliseconds per batch of a model in this project, of its exported files in their runtimes, and of PyTorch.

    python -m benchmarks.exported

Each of them runs in its own process, and they take turns. All of them classify the same random uint8 images, from host
memory to probabilities in host memory: `predict` of this project; the .stablehlo file in JAX; the .onnx files, in
float32 and in int8, in ONNX Runtime; and the same model in PyTorch, in eager mode with channels last.
"""

import functools
import importlib.util
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable

import numpy as np
from absl import app, flags, logging

from benchmarks import contestants, results, tunings, turns
from benchmarks.contestants import TakeSteps

MODELS = ("resnet20", "resnet18_224")
BATCH_SIZES = (1, 32)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, over which the median is taken.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 2.0, "Approximate seconds per turn.", lower_bound=0.0)

CALIBRATION_IMAGES = 32


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    names = {
        "exported_predict": "predict",
        "exported_stablehlo": "stablehlo",
        "exported_onnx": "onnx",
        "exported_int8": "int8",
    }
    if importlib.util.find_spec("torch"):
        names["torch_predict"] = "torch_eager"
    measured = []
    for model in MODELS:
        for batch_size in BATCH_SIZES:
            case = (model, "float32", str(batch_size))
            finished = turns.take_turns(dict.fromkeys(names, 3), case, ROUNDS.value, SECONDS.value)
            milliseconds = {
                names[contestant.name]: 1e3 * statistics.median(contestant.seconds) for contestant in finished
            }
            measured.append({"network": model, "batch_size": batch_size, "torch_eager": None, **milliseconds})
    results.add("exported", rounds=ROUNDS.value, figures=measured)


# --- The contestants: functions that classify the same batch again and again ------------------------------------------


def exported_predict(model_name: str, dtype: str, batch_size: int) -> TakeSteps:
    """Return a function that classifies with `TrainedModel.predict`, with the CPU tuning of the command `predict`."""
    del dtype
    tunings.tuned()
    trained, images = _trained_model(model_name), _images(model_name, batch_size)
    return _repeat(lambda: trained.predict(images).probabilities)


def exported_stablehlo(model_name: str, dtype: str, batch_size: int) -> TakeSteps:
    """Return a function that classifies with the .stablehlo file, in JAX."""
    del dtype
    from resnet_jax.export import run_file, stablehlo

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.stablehlo"
        stablehlo.write(_program(model_name), path, batch_size=None)
        run, _, _ = run_file.open_stablehlo(path)
    images = _images(model_name, batch_size)
    return _repeat(lambda: np.asarray(run(images)["probabilities"]))


def exported_onnx(model_name: str, dtype: str, batch_size: int, quantized: bool = False) -> TakeSteps:
    """Return a function that classifies with the .onnx file, in ONNX Runtime."""
    del dtype
    from resnet_jax.export import onnx_format, run_file

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        onnx_format.write(_program(model_name), path, batch_size=None)
        if quantized:
            onnx_format.quantize(path, path.with_name("int8.onnx"), _images(model_name, CALIBRATION_IMAGES))
            path = path.with_name("int8.onnx")
        run, _, _ = run_file.open_onnx(path)
    images = _images(model_name, batch_size)
    return _repeat(lambda: run(images)["probabilities"])


def exported_int8(model_name: str, dtype: str, batch_size: int) -> TakeSteps:
    """Return a function that classifies with the .onnx file in int8, in ONNX Runtime."""
    return exported_onnx(model_name, dtype, batch_size, quantized=True)


def _repeat(classify: Callable[[], np.ndarray]) -> TakeSteps:
    def take_steps(steps: int) -> float:
        for _ in range(steps):
            probabilities = classify()
        return float(probabilities.mean())

    return take_steps


def _images(model_name: str, batch_size: int) -> np.ndarray:
    return contestants.random_batch(model_name, batch_size)[0]


@functools.cache
def _trained_model(model_name: str):
    """Return the model with initial weights, as `load_run` returns a trained one."""
    import jax

    from resnet_jax import config as settings
    from resnet_jax.data.preprocess import Preprocess
    from resnet_jax.runtime import parallel
    from resnet_jax.trained_model import TrainedModel

    config = settings.default()
    config.dataset.mean, config.dataset.std = contestants.MEAN, contestants.STD
    config.dataset.image_size, config.dataset.feed = contestants.IMAGE_SIZES[model_name], "resident"
    mesh = parallel.make_mesh()
    model = contestants.make_model(model_name, "float32")
    images = _images(model_name, 1)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images / 255, train=False))()
    variables = parallel.place(jax.device_get(variables), parallel.replicated(mesh))
    classes = tuple(map(str, range(contestants.NUM_CLASSES[model_name])))
    return TrainedModel(config, classes, model, variables, Preprocess.from_config(config.dataset), 0, mesh)


def _program(model_name: str):
    from resnet_jax.export.program import make_program

    return make_program(_trained_model(model_name), ["probabilities"], _images(model_name, 1).shape[1:])


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    app.run(main)
