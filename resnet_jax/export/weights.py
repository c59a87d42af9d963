"""Export of weights for other libraries."""

import json

import numpy as np

from resnet_jax import files
from resnet_jax.errors import UserError
from resnet_jax.export.targets import WEIGHTS, unfinished
from resnet_jax.pretrained import convert, weight_files
from resnet_jax.pretrained.load import settings_not_implied_by_shapes
from resnet_jax.trained_model import TrainedModel


def export_weights(trained: TrainedModel, path: str) -> None:
    """Write the variables of a model as a .safetensors file, under the names that PyTorch libraries use.

    The metadata of the file describes the model, each value as JSON:

    model         the name of the model
    network       the settings that no array shape reveals
    classes       the class names
    mean, std     the mean and the std of each channel, for pixels in [0, 1]
    image_size    the side of training images in pixels; null if the images were not square or were streamed in their
                  original size
    bit_depth     the number of bits of 16-bit images that are scaled to 8; null if there were no such images
    multi_label   whether images have any number of labels

    The file is read again, and kept only if every array is the same.

    Raises:
      UserError: if the path has another suffix, the file cannot be written, or its arrays differ when they are read.
    """
    target = files.check_target(path, "weights", WEIGHTS)
    dataset = trained.config.dataset
    description = {
        "model": trained.config.model.name,
        "network": settings_not_implied_by_shapes(trained.model),
        "classes": trained.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "image_size": dataset.image_size,
        "bit_depth": dataset.bit_depth,
        "multi_label": trained.is_multi_label,
    }
    arrays = convert.from_variables(trained.variables, trained.model)
    # The library transformers requires the key `format`.
    metadata = {"format": "pt", **{key: json.dumps(value) for key, value in description.items()}}
    with unfinished(target) as file:
        file.write_bytes(weight_files.safetensors_bytes(arrays, metadata))
        written = weight_files.read(str(file)).arrays
        if written.keys() != arrays.keys() or any(
            not np.array_equal(written[name], array, equal_nan=True) for name, array in arrays.items()
        ):
            raise UserError(f"the weights in {path} differ from those of the model. Nothing was written. Try again.")
