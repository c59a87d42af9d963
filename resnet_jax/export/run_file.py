"""Run an exported file in its own runtime: a script for a process of its own, which imports nothing of this project.

    python run_file.py SUFFIX MODEL IMAGES.npy OUTPUTS.npz BATCH_SIZE

SUFFIX names the format: one of the keys of `OPENERS`. IMAGES.npy holds uint8 [n, height, width, channels], at least one
image. OUTPUTS.npz gets the float32 arrays [n, ...] by name, and "seconds" for each batch. BATCH_SIZE has no effect on a
file whose batch size is fixed. The last line of stdout names the runtime and its version.
"""

import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np

BATCH_SIZE = 64  # for files that take any number of images, if speed does not matter

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def open_stablehlo(path: pathlib.Path) -> tuple[Run, int | None, str]:
    """Return a function that runs the file on a batch, its batch size if that is fixed, and the name of the runtime."""
    import jax
    from jax import export

    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    batch_size = exported.in_avals[0].shape[0]
    return call, batch_size if isinstance(batch_size, int) else None, f"JAX {jax.__version__}"


def open_onnx(path: pathlib.Path) -> tuple[Run, int | None, str]:
    """See `open_stablehlo`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    batch_size = session.get_inputs()[0].shape[0]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {"images": images}), strict=True))

    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    return run, batch_size if isinstance(batch_size, int) else None, runtime


def open_saved_model(path: pathlib.Path) -> tuple[Run, int | None, str]:
    """See `open_stablehlo`."""
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    signature = model.signatures["serving_default"]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in signature(images=tf.constant(images)).items()}

    return run, signature.structured_input_signature[1]["images"].shape[0], f"TensorFlow {tf.__version__}"


def open_tflite(path: pathlib.Path) -> tuple[Run, int | None, str]:
    """See `open_stablehlo`."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path))
    run = interpreter.get_signature_runner()
    batch_size = int(run.get_input_details()["images"]["shape"][0])
    return lambda images: run(images=images), batch_size, f"TFLite of TensorFlow {tf.__version__}"


OPENERS = {".stablehlo": open_stablehlo, ".onnx": open_onnx, "/": open_saved_model, ".tflite": open_tflite}


def run_all(run: Run, images: np.ndarray, batch_size: int) -> tuple[dict[str, np.ndarray], list[float]]:
    """Run the model on all images, in batches of one size, and return its outputs and the seconds per batch.

    A batch before these compiles the model, where the runtime does that.
    """
    batches, seconds = [], []
    run(np.zeros((batch_size, *images.shape[1:]), images.dtype))
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        padded = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)])
        started = time.perf_counter()
        outputs = {name: np.asarray(array)[: len(batch)] for name, array in run(padded).items()}
        seconds.append(time.perf_counter() - started)
        batches.append(outputs)
    return {name: np.concatenate([outputs[name] for outputs in batches]) for name in batches[0]}, seconds


def main(suffix: str, model: str, images_file: str, outputs_file: str, batch_size: str) -> None:
    """Open the model, run it on the images, and write the outputs."""
    images = np.load(images_file)
    run, fixed_batch_size, runtime = OPENERS[suffix](pathlib.Path(model))
    outputs, seconds = run_all(run, images, fixed_batch_size or min(int(batch_size), len(images)))
    arrays = {**outputs, "seconds": np.array(seconds)}
    np.savez(outputs_file, allow_pickle=False, **arrays)
    print(runtime)  # noqa: T201
    if any(module.partition(".")[0] == "resnet_jax" for module in sys.modules):
        sys.exit("this check imported resnet_jax, so it proves nothing about the file alone")


if __name__ == "__main__":
    main(*sys.argv[1:])
