"""Names and layouts of arrays in other libraries.

A `Scheme` maps our names to those of a library, never back: to read weights, each of our arrays is looked up under the
name that it has in the library.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from resnet_jax.models.public_weights import IMAGENET_MEAN, IMAGENET_STD, INCEPTION_MEAN, INCEPTION_STD
from resnet_jax.models.resnet import FixupBlock, ResNet

Path = tuple[str, ...]  # of one of our arrays: "params" or "batch_stats", then modules, then the leaf
Shape = tuple[int, ...]

IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
INCEPTION: dict[str, Any] = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The naming scheme of a library.

    Attributes:
      name: the name of the library or of a family of models, for messages.
      signature: array names that together identify the scheme.
      block: the format of the name of a residual block; `{stage}` and `{block}` count from 0, `{stage1}` from 1,
        `{stage4}` from 4.
      modules: our module names -> the library's. Modules that are not listed have the same name in both.
      mean, std: the mean and std per channel, of pixels in [0, 1], that published weights with these names expect.
      pointwise: our dense layers that are 1x1 convolutions in the library.
    """

    name: str
    signature: tuple[str, ...]
    block: str
    modules: Mapping[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pointwise: tuple[str, ...] = ("reduce", "expand")

    def array_name(self, path: Path, shape: Shape) -> str:
        """Return the library's name for our array at `path`, which has this `shape`.

        Example:
          >>> TORCHVISION.array_name(("params", "stage2_block1", "conv2", "kernel"), (3, 3, 8, 16))
          'layer2.0.conv2.weight'
        """
        _, *modules, leaf = path
        names = [self._module_name(module) for module in modules]
        if shape:
            names.append(LEAVES[leaf])
        elif leaf != "bias":  # Our scalar `bias1a/bias` (module and leaf) is a bare parameter `bias1a` in PyTorch code.
            names.append(leaf)
        return ".".join(names)

    def _module_name(self, module: str) -> str:
        match = re.fullmatch(r"stage(\d+)_block(\d+)", module)
        if not match:
            return self.modules.get(module, module)
        stage, block = int(match[1]), int(match[2])
        return self.block.format(stage=stage - 1, stage1=stage, stage4=stage + 3, block=block - 1)

    def export_array(self, path: Path, array: np.ndarray) -> np.ndarray:
        """Return our array at `path` in the library's layout."""
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if array.ndim == 2:
            return array.T[:, :, None, None] if path[-2] in self.pointwise else array.T
        return array.reshape(-1)  # PyTorch code keeps a scalar in an array of shape [1].

    def input_channels(self, arrays: Mapping[str, np.ndarray]) -> int | None:
        """Return the number of image channels of these weights; None if they have no stem."""
        for stem in ("stem_conv", "stem_conv1"):
            kernel = arrays.get(f"{self.modules.get(stem, stem)}.weight")
            if kernel is not None and kernel.ndim == 4:
                return kernel.shape[1]
        return None

    def array_shape(self, path: Path, shape: Shape) -> Shape:
        """Return the shape that our array at `path` with this `shape` has in the library."""
        return self.export_array(path, np.broadcast_to(np.float32(0), shape)).shape

    @staticmethod
    def import_array(array: np.ndarray, shape: Shape) -> np.ndarray:
        """Return a library's array in our layout, with this `shape`."""
        if len(shape) == 4:
            return array.transpose(2, 3, 1, 0)
        return array.reshape(shape[::-1]).T


TORCHVISION = Scheme(
    name="torchvision",
    signature=("layer1.0.conv1.weight",),
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
        # The names below are timm's, because torchvision has neither the deep stem nor squeeze-and-excitation.
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
TIMM_RESNET_D = dataclasses.replace(  # Its shortcuts start with a pooling layer, number 0.
    TORCHVISION,
    name="timm's ResNet-D",
    signature=("layer1.0.conv1.weight", "layer2.0.downsample.2.weight"),
    modules={**TORCHVISION.modules, "shortcut_conv": "downsample.1", "shortcut_norm": "downsample.2"},
)
TIMM_PRE_ACTIVATION = Scheme(
    name="timm's pre-activation ResNet",
    signature=("stages.0.blocks.0.conv1.weight",),
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
    signature=("resnet.embedder.embedder.convolution.weight",),
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
HUGGING_FACE_BACKBONE = dataclasses.replace(  # `ResNetModel`, the model without the head
    HUGGING_FACE,
    name="Hugging Face's ResNetModel",
    signature=("embedder.embedder.convolution.weight",),
    block=HUGGING_FACE.block.removeprefix("resnet."),
    modules={module: name.removeprefix("resnet.") for module, name in HUGGING_FACE.modules.items()},
)
MMPRETRAIN = dataclasses.replace(  # https://github.com/open-mmlab/mmpretrain
    TORCHVISION,
    name="mmpretrain",
    signature=("backbone.layer1.0.conv1.weight", "head.fc.weight"),
    block=f"backbone.{TORCHVISION.block}",
    modules={
        **TORCHVISION.modules,
        "stem_conv": "backbone.conv1",
        "stem_norm": "backbone.bn1",
        "head": "head.fc",
    },
)
SEQUENTIAL = dataclasses.replace(  # nn.Sequential(*list(resnet.children())[:-1]), often used as an encoder
    TORCHVISION,
    name="torchvision, with numbers for the layers",
    signature=("4.0.conv1.weight", "0.weight", "1.running_mean"),
    block="{stage4}.{block}",
    modules={**TORCHVISION.modules, "stem_conv": "0", "stem_norm": "1", "head": "9"},
)
AKAMASTER = dataclasses.replace(  # https://github.com/akamaster/pytorch_resnet_cifar10
    TORCHVISION,
    name="akamaster's CIFAR ResNet",
    signature=("layer1.0.conv1.weight", "linear.weight"),
    modules={**TORCHVISION.modules, "shortcut_conv": "shortcut.0", "shortcut_norm": "shortcut.1", "head": "linear"},
)
FIXUP = dataclasses.replace(  # The authors' code: https://github.com/hongyi-zhang/Fixup
    TORCHVISION,
    name="Fixup",
    signature=("layer1.0.conv1.weight", "layer1.0.bias1a"),
    modules={**TORCHVISION.modules, "stem_norm": "bias1", "final_norm": "bias2", "shortcut_conv": "downsample"},
)
# More specific signatures come first, because the first scheme that fits is used.
SCHEMES = (
    HUGGING_FACE,
    HUGGING_FACE_BACKBONE,
    TIMM_PRE_ACTIVATION,
    MMPRETRAIN,
    FIXUP,
    AKAMASTER,
    TIMM_RESNET_D,
    TORCHVISION,
    SEQUENTIAL,
)


def find_schemes(names: Iterable[str]) -> dict[str, Scheme]:
    """Return the naming schemes of all ResNets among these array names, by the prefix of their names.

    Example:
      >>> schemes = find_schemes(["epoch", "encoder.layer1.0.conv1.weight"])
      >>> {prefix: scheme.name for prefix, scheme in schemes.items()}
      {'encoder.': 'torchvision'}
    """
    all_names = set(names)
    recognized: dict[str, tuple[str, Scheme]] = {}  # the prefix and the scheme, by the first name of the signature
    for scheme in SCHEMES:
        first = scheme.signature[0]
        for name in sorted(all_names - recognized.keys()):
            prefix = name.removesuffix(first)
            is_first = name == first or name.endswith(f".{first}")
            if is_first and all(f"{prefix}{other}" in all_names for other in scheme.signature):
                recognized[name] = prefix, scheme
    return dict(recognized.values())


def scheme_for_model(model: ResNet) -> Scheme:
    """Return the scheme for exporting `model`: torchvision's or, for models that torchvision lacks, another one."""
    if model.block is FixupBlock:
        return FIXUP
    if model.block.pre_activation:
        return TIMM_PRE_ACTIVATION
    return TIMM_RESNET_D if model.shortcut == "average_pool" else TORCHVISION
