"""The real program with one more model, "tiny", which compiles in a second.

python tests/end_to_end/tiny.py --config=configs/digits.py --config.model.name=tiny --workdir=/tmp/run
"""

import functools
import pathlib
import runpy

from resnet_jax.models import variants
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import Variant

TINY_VARIANT = Variant(
    functools.partial(ResNet, stage_sizes=(1, 1), width=8, stem="cifar", shortcut="pad"), "no paper", "digits", 8, 10
)

if __name__ in ("__main__", "__mp_main__"):  # "__mp_main__" in worker processes
    variants.VARIANTS["tiny"] = TINY_VARIANT
if __name__ == "__main__":
    runpy.run_path(str(pathlib.Path(__file__).parents[2] / "main.py"), run_name="__main__")
