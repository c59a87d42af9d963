"""The real program with one more model, "tiny", which has public weights of the tags "first" and "second".

`arrays` makes the content of these weights.
"""

import pathlib
import runpy

import jax
import numpy as np

from resnet_jax.models import public_weights, variants
from resnet_jax.models.factory import create_model
from resnet_jax.models.public_weights import PublicWeights
from resnet_jax.pretrained import convert
from resnet_jax.trained_model import abstract_variables
from tests.end_to_end.tiny import TINY_VARIANT

TAGS = ("first", "second")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
IMAGE_SIZE, EVAL_RESIZE = 8, 10
TINY_WEIGHTS = tuple(
    PublicWeights(tag, f"owner/tiny.{tag}", 0.9, IMAGE_SIZE, EVAL_RESIZE, MEAN, STD, "apache-2.0", num_classes=10)
    for tag in TAGS
)


def register():
    """Add the model and its weights to the tables of this process."""
    variants.VARIANTS["tiny"] = TINY_VARIANT
    public_weights.PUBLIC_WEIGHTS["tiny"] = TINY_WEIGHTS


def variables(tag):
    """Return the variables of the weights with this tag: the same in each process. `register` comes first."""
    rng = np.random.default_rng(TAGS.index(tag))
    abstract = abstract_variables(create_model("tiny", 10), channels=3)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), abstract)


def arrays(tag):
    """Return the arrays of the weights with this tag, as torchvision names them. `register` comes first."""
    return convert.from_variables(variables(tag), create_model("tiny", 10))


if __name__ in ("__main__", "__mp_main__"):  # "__mp_main__" in worker processes
    register()
if __name__ == "__main__":
    runpy.run_path(str(pathlib.Path(__file__).parents[2] / "main.py"), run_name="__main__")
