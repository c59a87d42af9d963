"""A trained network as a file for others."""

import json

from resnet_jax.pretrained import convert, weight_files
from resnet_jax.pretrained.load import NOT_IN_SHAPES
from resnet_jax.trained_model import TrainedModel


def export_weights(run: TrainedModel, path: str) -> None:
    """Writes a network's variables as .safetensors, under the names that PyTorch's libraries have for them.

    What they were trained with travels in the file's metadata, as JSON: `model`, the network's name, and `network`,
    what no shape shows of it; `classes`, `mean` and `std` of the pixels in [0, 1], and `image_size`, pixels on a side
    in training, which is null where pictures were not square, or were streamed as they are.

    Raises:
      UserError: if the file cannot be written.
    """
    dataset = run.config.dataset
    known = {
        "model": run.config.model.name,
        "network": {setting: getattr(run.model, setting) for setting in NOT_IN_SHAPES},
        "classes": run.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "image_size": dataset.image_size,
    }
    arrays = convert.from_variables(run.variables, run.model)
    metadata = {"format": "pt", **{key: json.dumps(value) for key, value in known.items()}}  # transformers asks for it.
    weight_files.write(path, weight_files.Weights(arrays, metadata))
