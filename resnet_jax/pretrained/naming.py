"""How other libraries name and lay out what we have.

Both ways go from ours to theirs: to read weights, each of our arrays is looked up under the name it has there.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import FixupBlock, ResNet

Path = tuple[str, ...]  # of an array in our variables: "params" or "batch_stats", modules, leaf
Shape = tuple[int, ...]

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
INCEPTION: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a library names its arrays.

    Attributes:
      name: of the library.
      sign: names that together tell the scheme.
      block: name of a residual block; `{stage}` and `{block}` count from 0, `{stage1}` from 1.
      modules: from our name of a module to theirs; one that they do not have keeps ours.
      mean, std: of the pixels, in [0, 1], that published weights with these names were trained on.
      pointwise: our fully connected layers that are 1x1 convolutions there.
    """

    name: str
    sign: tuple[str, ...]
    block: str
    modules: Mapping[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pointwise: tuple[str, ...] = ("reduce", "expand")

    def name_of(self, path: Path, shape: Shape) -> str:
        """The name of our array of `shape` at `path`."""
        _, *modules, leaf = path
        names = [self._name_of_module(module) for module in modules]
        if shape:
            names.append(LEAVES[leaf])
        elif leaf != "bias":  # A scalar bias is no module there, but an array of the name of ours.
            names.append(leaf)
        return ".".join(names)

    def _name_of_module(self, module: str) -> str:
        place = re.fullmatch(r"stage(\d+)_block(\d+)", module)
        if not place:
            return self.modules.get(module, module)
        stage, block = int(place[1]), int(place[2])
        return self.block.format(stage=stage - 1, stage1=stage, block=block - 1)

    def to_theirs(self, path: Path, array: np.ndarray) -> np.ndarray:
        """Our array at `path` in their layout."""
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if array.ndim == 2:
            return array.T[:, :, None, None] if path[-2] in self.pointwise else array.T
        return array.reshape(-1)  # PyTorch code keeps a scalar in an array of one.

    def input_channels(self, arrays: Mapping[str, np.ndarray]) -> int | None:
        """Of the pictures that these weights take; None where they have no stem."""
        for stem in ("stem_conv", "stem_conv1"):
            kernel = arrays.get(f"{self.modules.get(stem, stem)}.weight")
            if kernel is not None and kernel.ndim == 4:
                return kernel.shape[1]
        return None

    def shape_of(self, path: Path, shape: Shape) -> Shape:
        """The shape there of our array of `shape` at `path`."""
        return self.to_theirs(path, np.broadcast_to(np.float32(0), shape)).shape

    @staticmethod
    def to_ours(array: np.ndarray, shape: Shape) -> np.ndarray:
        """Their array as ours, which is of `shape`."""
        return array.transpose(2, 3, 1, 0) if len(shape) == 4 else array.reshape(shape[::-1]).T


TORCHVISION = Scheme(
    name="torchvision",
    sign=("layer1.0.conv1.weight",),
    block="layer{stage1}.{block}",
    modules={
        "stem_conv": "conv1",
        "stem_norm": "bn1",
        "norm1": "bn1",
        "norm2": "bn2",
        "norm3": "bn3",
        "shortcut_conv": "downsample.0",
        "shortcut_norm": "downsample.1",
        "head": "fc",
        # Of timm, as torchvision has neither the deep stem nor the gates.
        "stem_conv1": "conv1.0",
        "stem_norm1": "conv1.1",
        "stem_conv2": "conv1.3",
        "stem_norm2": "conv1.4",
        "stem_conv3": "conv1.6",
        "stem_norm3": "bn1",
        "squeeze_excitation": "se",
        "reduce": "fc1",
        "expand": "fc2",
    },
    **IMAGENET,
)
TIMM_RESNET_D = dataclasses.replace(  # Its shortcuts begin with a pooling.
    TORCHVISION,
    name="timm's ResNet-D",
    sign=("layer1.0.conv1.weight", "layer2.0.downsample.2.weight"),
    modules={**TORCHVISION.modules, "shortcut_conv": "downsample.1", "shortcut_norm": "downsample.2"},
)
TIMM_PRE_ACTIVATION = Scheme(
    name="timm's pre-activation ResNet",
    sign=("stages.0.blocks.0.conv1.weight",),
    block="stages.{stage}.blocks.{block}",
    modules={
        "stem_conv": "stem.conv",
        "stem_conv1": "stem.conv1",
        "stem_norm1": "stem.norm1",
        "stem_conv2": "stem.conv2",
        "stem_norm2": "stem.norm2",
        "stem_conv3": "stem.conv3",
        "shortcut_conv": "downsample.conv",
        "squeeze_excitation": "se",
        "reduce": "fc1",
        "expand": "fc2",
        "final_norm": "norm",
        "head": "head.fc",
    },
    pointwise=("reduce", "expand", "head"),
    **INCEPTION,
)
HUGGING_FACE = Scheme(
    name="Hugging Face",
    sign=("resnet.embedder.embedder.convolution.weight",),
    block="resnet.encoder.stages.{stage}.layers.{block}",
    modules={
        "stem_conv": "resnet.embedder.embedder.convolution",
        "stem_norm": "resnet.embedder.embedder.normalization",
        "conv1": "layer.0.convolution",
        "norm1": "layer.0.normalization",
        "conv2": "layer.1.convolution",
        "norm2": "layer.1.normalization",
        "conv3": "layer.2.convolution",
        "norm3": "layer.2.normalization",
        "shortcut_conv": "shortcut.convolution",
        "shortcut_norm": "shortcut.normalization",
        "head": "classifier.1",
    },
    **IMAGENET,
)
AKAMASTER = dataclasses.replace(
    TORCHVISION,
    name="akamaster's CIFAR ResNet",
    sign=("layer1.0.conv1.weight", "linear.weight"),
    modules={**TORCHVISION.modules, "shortcut_conv": "shortcut.0", "shortcut_norm": "shortcut.1", "head": "linear"},
)
FIXUP = dataclasses.replace(  # The authors' code: https://github.com/hongyi-zhang/Fixup
    TORCHVISION,
    name="Fixup",
    sign=("layer1.0.conv1.weight", "layer1.0.bias1a"),
    modules={**TORCHVISION.modules, "stem_norm": "bias1", "final_norm": "bias2", "shortcut_conv": "downsample"},
)
SCHEMES = (HUGGING_FACE, TIMM_PRE_ACTIVATION, FIXUP, AKAMASTER, TIMM_RESNET_D, TORCHVISION)  # Special ones first.


def detect(arrays: Mapping[str, np.ndarray]) -> Scheme:
    """The scheme that arrays are named in.

    Raises:
      UserError: if it is none of `SCHEMES`.
    """
    for scheme in SCHEMES:
        if all(name in arrays for name in scheme.sign):
            return scheme
    some = ", ".join(list(arrays)[:3])
    raise UserError(
        f"the names of these weights ({some}, ...) are of no ResNet that is known here: "
        "give weights of torchvision, timm, Hugging Face or akamaster"
    )


def scheme_of(model: ResNet) -> Scheme:
    """What the weights of `model` are written in: torchvision's names, or where it has no such network another's."""
    if model.block is FixupBlock:
        return FIXUP
    if model.block.pre_activation:
        return TIMM_PRE_ACTIVATION
    return TIMM_RESNET_D if model.shortcut == "average_pool" else TORCHVISION
