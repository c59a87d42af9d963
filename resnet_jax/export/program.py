"""The program of an exported file: from uint8 images to probabilities, with the normalization inside."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UserError, unknown_name
from resnet_jax.trained_model import TrainedModel

OUTPUTS = ("probabilities", "logits", "features")
MAX_BYTES = 2**31 - 1  # the size of the largest protocol buffer, and of the largest file that FlatBuffers writes


@dataclasses.dataclass(frozen=True)
class Program:
    """A trained model as a function of a batch of images, with what its file records about it.

    Attributes:
      function: a function from uint8 [batch, height, width, channels] to float32 arrays [batch, ...] by name. It
        computes in float32, even if the model was trained in bfloat16.
      image_shape: (height, width, channels).
      outputs: the names of the arrays: "probabilities" [batch, classes], "logits" [batch, classes] or "features"
        [batch, width], the input of the head.
      metadata: what the file records about the model, as JSON values by key; docs/export.md lists the keys.
    """

    function: Callable[[jax.Array], dict[str, jax.Array]]
    image_shape: tuple[int, int, int]
    outputs: tuple[str, ...]
    metadata: dict[str, object]

    def metadata_json(self) -> str:
        """Return the metadata as the text that files store, in ASCII: the name of a class may not be valid Unicode."""
        return json.dumps(self.metadata, indent=1)


def make_program(trained: TrainedModel, outputs: Sequence[str], image_shape: tuple[int, int, int]) -> Program:
    """Return the program of a trained model.

    Args:
      trained: the trained model.
      outputs: names of `OUTPUTS`, in the order in which the file returns them.
      image_shape: (height, width, channels) of the images that the model sees in evaluation.

    Raises:
      UserError: if an output is unknown or named twice, or if the weights are larger than any format can hold.
    """
    check_outputs(outputs)
    size = sum(array.nbytes for array in jax.tree.leaves(trained.variables))
    if size > MAX_BYTES:
        raise UserError(
            f"the weights of this model take {size / 1e9:.1f} GB, and a file that runs holds at most "
            f"{MAX_BYTES / 1e9:.1f} GB. Export them as .safetensors."
        )
    model = trained.model.clone(dtype=jnp.float32)
    variables = jax.tree.map(np.asarray, trained.variables)
    # The images already have the size of the model.
    normalize = dataclasses.replace(trained.preprocess, image_size=None)

    def function(images: jax.Array) -> dict[str, jax.Array]:
        # By default, TPUs would multiply in bfloat16, and GPUs in TensorFloat-32.
        with jax.default_matmul_precision("float32"):
            logits, features = model.apply(variables, normalize(images), train=False, return_features=True)
        values = {"probabilities": trained.probabilities(logits), "logits": logits, "features": features["pooled"]}
        return {name: values[name].astype(jnp.float32) for name in outputs}

    return Program(function, image_shape, tuple(outputs), _describe(trained))


def check_outputs(outputs: Sequence[str]) -> None:
    """Raise `UserError` if an output is unknown or named twice, or if there is none."""
    for name in outputs:
        if name not in OUTPUTS:
            raise unknown_name("output", name, OUTPUTS)
    if not outputs or len(set(outputs)) < len(outputs):
        raise UserError(f"--outputs={','.join(outputs)} is empty or repeats a name. Choose from {', '.join(OUTPUTS)}.")


def class_scores(outputs: Sequence[str]) -> str | None:
    """Return the output whose largest value is that of the predicted class; None if there is none.

    Example:
      >>> class_scores(["features", "logits"])
      'logits'
    """
    return next((name for name in ("probabilities", "logits") if name in outputs), None)


def _describe(trained: TrainedModel) -> dict[str, object]:
    """Return what files record about a model."""
    dataset = trained.config.dataset
    crop = dataset.eval_crop or dataset.image_size
    return {
        "model": trained.config.model.name,
        "classes": trained.classes,
        "thresholds": trained.decision_thresholds,
        "bit_depth": dataset.bit_depth,
        "mean": dataset.mean,
        "std": dataset.std,
        "resize_shorter_side": dataset.eval_resize or crop,
        "center_crop": crop,
        "step": trained.step,
        "validation": trained.validation,
        "commit": trained.commit,
        "config_sha256": hashlib.sha256(trained.config.to_json(sort_keys=True).encode()).hexdigest(),
    }
