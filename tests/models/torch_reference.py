"""The published networks once more, in plain PyTorch, to hold ours against.

Modules are named as in the libraries whose weights are in use: torchvision and, where it has none, timm; for the CIFAR
network of He et al. 2015 akamaster/pytorch_resnet_cifar10. `to_variables` turns those names into ours.
"""

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What tells the networks apart.

    Attributes:
      sizes: blocks in each stage.
      bottleneck: blocks have three convolutions, not two.
      width, stem_width: channels of the first stage's 3x3 and of the stem.
      groups, group_width: of a bottleneck's 3x3; its groups have `group_width` channels in the first stage.
      cifar: a 3x3 stem that keeps the size.
      pre_activation: norms and activations stand before the convolutions.
      squeeze_excitation: residuals end in a gate.
      deep: three 3x3 in the stem, and shortcuts that pool before they project: "D" of He et al. 2018.
      option_a: shortcuts have no parameters.
      bit: weight standardisation, GroupNorm, and a max-pool that sees zeros at the border.
    """

    sizes: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    width: int = 64
    stem_width: int = 64
    groups: int = 1
    group_width: int = 64
    cifar: bool = False
    pre_activation: bool = False
    squeeze_excitation: bool = False
    deep: bool = False
    option_a: bool = False
    bit: bool = False

    @property
    def expansion(self) -> int:
        return 4 if self.bottleneck else 1

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        kind = StandardizedConv if self.bit else nn.Conv2d
        return kind(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)

    def norm(self, channels: int) -> nn.Module:
        return nn.GroupNorm(32, channels) if self.bit else nn.BatchNorm2d(channels)

    def residual(self, inputs: int, width: int, stride: int) -> list[nn.Conv2d]:
        """The convolutions of a block."""
        if not self.bottleneck:
            return [self.conv(inputs, width, 3, stride), self.conv(width, width, 3)]
        inner = width * self.groups * self.group_width // 64
        middle = self.conv(inner, inner, 3, stride, self.groups)
        return [self.conv(inputs, inner, 1), middle, self.conv(inner, 4 * width, 1)]

    def shortcut(self, inputs: int, outputs: int, stride: int) -> nn.Module | None:
        if stride == 1 and inputs == outputs:
            return None
        if self.option_a:
            return OptionA()
        if self.pre_activation:
            return named(conv=self.conv(inputs, outputs, 1, stride))
        if not self.deep:
            return nn.Sequential(self.conv(inputs, outputs, 1, stride), self.norm(outputs))
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
        return nn.Sequential(pool, self.conv(inputs, outputs, 1), self.norm(outputs))


ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet50": Architecture(),
    "wide_resnet50_2": Architecture(group_width=128),
    "resnext50_32x4d": Architecture(groups=32, group_width=4),
    "seresnet50": Architecture(squeeze_excitation=True),
    "resnet50d": Architecture(deep=True),
    "resnetv2_50": Architecture(pre_activation=True),
    "bit_r50x1": Architecture(pre_activation=True, bit=True),
    "resnet20": Architecture((3, 3, 3), bottleneck=False, width=16, stem_width=16, cifar=True, option_a=True),
    "wide_resnet16_4": Architecture((2, 2, 2), bottleneck=False, stem_width=16, cifar=True, pre_activation=True),
}


def make_network(name: str, num_classes: int) -> nn.Sequential:
    """The network that we call so: from images [batch, 3, height, width] to logits [batch, classes]."""
    architecture = ARCHITECTURES[name]
    stages, channels = [], architecture.stem_width
    for stage, size in enumerate(architecture.sizes):
        blocks, width = [], architecture.width * 2**stage
        for index in range(size):
            blocks.append(Block(architecture, channels, width, stride=2 if stage > 0 and index == 0 else 1))
            channels = width * architecture.expansion
        stages.append(nn.Sequential(*blocks))
    stem, pool, flatten = make_stem(architecture), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    if architecture.pre_activation:
        stages = nn.Sequential(*(named(blocks=blocks) for blocks in stages))
        norm = architecture.norm(channels)
        head = named(fc=nn.Conv2d(channels, num_classes, 1), flatten=flatten)
        return named(stem=named(**stem), stages=stages, norm=norm, relu=nn.ReLU(), pool=pool, head=head)
    layers = {f"layer{number}": blocks for number, blocks in enumerate(stages, 1)}
    head = "linear" if architecture.cifar else "fc"
    return named(**stem, **layers, pool=pool, flatten=flatten, **{head: nn.Linear(channels, num_classes)})


def make_stem(architecture: Architecture) -> dict[str, nn.Module]:
    width, conv, norm = architecture.stem_width, architecture.conv, architecture.norm
    if architecture.deep:
        half = width // 2
        first, second = [conv(3, half, 3, 2), norm(half)], [conv(half, half, 3), norm(half)]
        modules = {"conv1": nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), conv(half, width, 3))}
    else:
        name = "conv" if architecture.pre_activation else "conv1"
        modules = {name: conv(3, width, 3) if architecture.cifar else conv(3, width, 7, 2)}
    if not architecture.pre_activation:
        modules |= {"bn1": norm(width), "relu": nn.ReLU()}
    if architecture.bit:
        modules |= {"pad": nn.ConstantPad2d(1, 0.0), "maxpool": nn.MaxPool2d(3, 2)}
    elif not architecture.cifar:
        modules |= {"maxpool": nn.MaxPool2d(3, 2, padding=1)}
    return modules


class Block(nn.Module):
    """A residual block, with the activations after the convolutions or before them."""

    def __init__(self, architecture: Architecture, inputs: int, width: int, stride: int):
        super().__init__()
        convs = architecture.residual(inputs, width, stride)
        self.count, self.pre_activation = len(convs), architecture.pre_activation
        self.norm_name = "norm" if self.pre_activation else "bn"
        for number, conv in enumerate(convs, 1):
            channels = conv.in_channels if self.pre_activation else conv.out_channels
            self.add_module(f"conv{number}", conv)
            self.add_module(f"{self.norm_name}{number}", architecture.norm(channels))
        outputs = convs[-1].out_channels
        self.se = SqueezeExcitation(outputs) if architecture.squeeze_excitation else nn.Identity()
        self.downsample = architecture.shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = source = x
        for number in range(1, self.count + 1):
            conv, norm = (self.get_submodule(f"{name}{number}") for name in ("conv", self.norm_name))
            if self.pre_activation:
                y = norm(y).relu()
                source = y if number == 1 else source
                y = conv(y)
            else:
                y = norm(conv(y))
                y = y if number == self.count else y.relu()
        y = self.se(y) + (x if self.downsample is None else self.downsample(source))
        return y if self.pre_activation else y.relu()


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class OptionA(nn.Module):
    """Every second value, and half as many zero channels again on each side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        border = x.shape[1] // 2
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, border, border))


class StandardizedConv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / torch.sqrt(variance + 1e-10), None)


def named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def randomize(network: nn.Module, seed: int) -> None:
    """He-normal kernels, all else random too; residuals are small, for the activations not to grow block by block."""
    generator = torch.Generator().manual_seed(seed)
    for name, array in network.state_dict().items():
        if array.ndim > 1:
            array.normal_(0.0, (2 / array[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("weight", "running_var")):
            array.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            array.normal_(0.0, 0.3, generator=generator)
    for block in network.modules():
        if isinstance(block, Block):
            last = block.get_submodule(f"{block.norm_name}{block.count}")
            last.weight.data *= 0.2
            last.bias.data *= 0.2


# From the name of a module to ours, one rule after the other; {kind} is what the module is, "conv" or "norm".
RULES = (
    (r"^layer(\d+)\.(\d+)\.", lambda found: f"stage{found[1]}_block{int(found[2]) + 1}/"),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", lambda found: f"stage{int(found[1]) + 1}_block{int(found[2]) + 1}/"),
    (r"^conv1\.(\d)$", lambda found: f"stem_{{kind}}{int(found[1]) // 3 + 1}"),
    (r"^(conv1|bn1|stem\.conv)$", "stem_{kind}"),
    (r"^norm$", "final_norm"),
    (r"^(fc|linear|head\.fc)$", "head"),
    (r"/bn", "/norm"),
    (r"/downsample\..*", "/shortcut_{kind}"),
    (r"/se\.fc1$", "/squeeze_excitation/reduce"),
    (r"/se\.fc2$", "/squeeze_excitation/expand"),
)
VECTORS = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def to_variables(arrays: Mapping[str, torch.Tensor]) -> dict[str, dict]:
    """Our "params" and "batch_stats" from a state dict, or from gradients under the same names."""
    variables = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        module, leaf = name.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            continue
        for pattern, ours in RULES:
            module = re.sub(pattern, ours, module)
        module = module.format(kind="conv" if array.ndim == 4 else "norm")
        if module == "stem_norm" and "conv1.6.weight" in arrays:  # The third of a deep stem.
            module = "stem_norm3"
        tree = variables["batch_stats" if leaf.startswith("running") else "params"]
        for part in module.split("/"):
            tree = tree.setdefault(part, {})
        value = array.detach().numpy()
        if value.ndim == 1:
            tree[VECTORS[leaf]] = value
        elif module.endswith(("head", "reduce", "expand")):  # Linear, or a 1x1 convolution of a single pixel.
            tree["kernel"] = value.reshape(value.shape[:2]).T
        else:
            tree["kernel"] = value.transpose(2, 3, 1, 0)
    return variables
