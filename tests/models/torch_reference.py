"""The published models in plain PyTorch, as a reference for ours.

Modules are named as in torchvision or, for models that it lacks, as in timm; for Fixup as in the authors' code.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from resnet_jax.models.resnet import ResNet
from resnet_jax.pretrained import convert, naming
from resnet_jax.trained_model import abstract_variables


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The settings in which the models differ.

    Attributes:
      sizes: the number of blocks per stage.
      bottleneck: whether blocks have three convolutions instead of two.
      width, stem_width: the width of the first stage and the output channels of the stem. Each further stage has twice
        the width of the stage before it.
      groups: the number of groups of a bottleneck's 3x3 convolution.
      group_width: a bottleneck's 3x3 has width / 64 * group_width channels per group.
      cifar: whether the stem is a 3x3 convolution that keeps the image size.
      pre_activation: whether norms and activations precede the convolutions.
      squeeze_excitation: whether residuals end with squeeze-and-excitation.
      deep: whether the stem has three 3x3 convolutions and shortcuts pool before they project: ResNet-D of He et al.
        2018.
      option_a: whether shortcuts have no parameters.
      bit: whether the model is a BiT, with weight standardization, GroupNorm, and a max-pool that is padded with zeros.
      blur: whether strides are preceded by low-pass filters. In a block, the 3x3 convolution does not
        stride. Instead, the filter subsamples the input of the next convolution.
      fixup: whether scalars replace norms.
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
    blur: bool = False
    fixup: bool = False

    @property
    def expansion(self) -> int:
        return 4 if self.bottleneck else 1

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        kind = StandardizedConv if self.bit else nn.Conv2d
        return kind(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)

    def norm(self, channels: int) -> nn.Module:
        return nn.GroupNorm(32, channels) if self.bit else nn.BatchNorm2d(channels)

    def residual(self, inputs: int, width: int, stride: int) -> list[nn.Conv2d]:
        """Return the convolutions of a block."""
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
        if self.fixup:
            return self.conv(inputs, outputs, 1, stride)
        if self.pre_activation:
            return named(conv=self.conv(inputs, outputs, 1, stride))
        if self.blur and stride == 2:
            return named(blur=Blur(), **{"0": self.conv(inputs, outputs, 1), "1": self.norm(outputs)})
        if not self.deep:
            return nn.Sequential(self.conv(inputs, outputs, 1, stride), self.norm(outputs))
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
        return nn.Sequential(pool, self.conv(inputs, outputs, 1), self.norm(outputs))


CIFAR = Architecture((3, 3, 3), bottleneck=False, width=16, stem_width=16, cifar=True)
ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet50": Architecture(),
    "wide_resnet50_2": Architecture(group_width=128),
    "resnext50_32x4d": Architecture(groups=32, group_width=4),
    "seresnet18": Architecture((2, 2, 2, 2), bottleneck=False, squeeze_excitation=True),
    "seresnet50": Architecture(squeeze_excitation=True),
    "seresnext50_32x4d": Architecture(groups=32, group_width=4, squeeze_excitation=True),
    "resnet18d": Architecture((2, 2, 2, 2), bottleneck=False, deep=True),
    "resnet50d": Architecture(deep=True),
    "antialiased_resnet18": Architecture((2, 2, 2, 2), bottleneck=False, blur=True),
    "antialiased_resnet50": Architecture(blur=True),
    "resnetv2_18": Architecture((2, 2, 2, 2), bottleneck=False, pre_activation=True),
    "resnetv2_50": Architecture(pre_activation=True),
    "bit_r50x1": Architecture(pre_activation=True, bit=True),
    "fixup_resnet50": Architecture(fixup=True),
    "resnet20": dataclasses.replace(CIFAR, option_a=True),
    "resnetv2_164": dataclasses.replace(CIFAR, sizes=(18, 18, 18), bottleneck=True, pre_activation=True),
    "wide_resnet16_4": dataclasses.replace(CIFAR, sizes=(2, 2, 2), width=64, pre_activation=True),
    "resnext29_8x64d": dataclasses.replace(CIFAR, bottleneck=True, width=64, stem_width=64, groups=8),
    "fixup_resnet110": dataclasses.replace(CIFAR, sizes=(18, 18, 18), option_a=True, fixup=True),
}


def make_model(architecture: Architecture, num_classes: int) -> nn.Module:
    """Return a model from images [batch, 3, height, width] to logits [batch, classes]."""
    stages, channels = [], architecture.stem_width
    block = FixupBlock if architecture.fixup else Block
    for stage, size in enumerate(architecture.sizes):
        blocks, width = [], architecture.width * 2**stage
        for index in range(size):
            blocks.append(block(architecture, channels, width, stride=2 if stage > 0 and index == 0 else 1))
            channels = width * architecture.expansion
        stages.append(nn.Sequential(*blocks))
    stem, pool, flatten = make_stem(architecture), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    if architecture.pre_activation:
        stages = nn.Sequential(*(named(blocks=blocks) for blocks in stages))
        norm = architecture.norm(channels)
        head = named(fc=nn.Conv2d(channels, num_classes, 1), flatten=flatten)
        return named(stem=named(**stem), stages=stages, norm=norm, relu=nn.ReLU(), pool=pool, head=head)
    layers = {f"layer{number}": blocks for number, blocks in enumerate(stages, 1)}
    layers |= {"pool": pool, "flatten": flatten, "fc": nn.Linear(channels, num_classes)}
    return FixupModel({**stem, **layers}) if architecture.fixup else named(**stem, **layers)


def make_airbench94(num_classes: int) -> nn.Module:
    """Return the model of Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds", with the shortcuts of its airbench96.

    The first convolution, which whitens patches, is initialized as all others are.
    """
    return named(
        conv1=nn.Conv2d(3, 24, 2, bias=False),
        stem_bias=ChannelBias(24),
        gelu=nn.GELU(),
        layer1=nn.Sequential(MaxPoolBlock(24, 64)),
        layer2=nn.Sequential(MaxPoolBlock(64, 256)),
        layer3=nn.Sequential(MaxPoolBlock(256, 256)),
        pool=nn.AdaptiveMaxPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(256, num_classes),
    )


class ChannelBias(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias[:, None, None]


class MaxPoolBlock(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.gelu(self.bn1(functional.max_pool2d(self.conv1(x), 2)))
        return functional.gelu(self.bn2(self.conv2(y)) + y)


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
        modules |= {"relu": nn.ReLU()} if architecture.fixup else {"bn1": norm(width), "relu": nn.ReLU()}
    if architecture.bit:
        modules |= {"pad": nn.ConstantPad2d(1, 0.0), "maxpool": nn.MaxPool2d(3, 2)}
    elif architecture.blur:
        modules |= {"maxpool": nn.MaxPool2d(2, 1), "blur": Blur()}
    elif not architecture.cifar:
        modules |= {"maxpool": nn.MaxPool2d(3, 2, padding=1)}
    return modules


class Block(nn.Module):
    """A residual block with post- or pre-activation."""

    def __init__(self, architecture: Architecture, inputs: int, width: int, stride: int):
        super().__init__()
        convs = architecture.residual(inputs, width, stride)
        self.count, self.pre_activation = len(convs), architecture.pre_activation
        self.norm_name = "norm" if self.pre_activation else "bn"
        self.blurred = 0  # The number of the convolution that a blur with stride 2 precedes; 0: none.
        for number, conv in enumerate(convs, 1):
            channels = conv.in_channels if self.pre_activation else conv.out_channels
            self.add_module(f"conv{number}", conv)
            self.add_module(f"{self.norm_name}{number}", architecture.norm(channels))
            if architecture.blur and conv.stride == (2, 2):
                conv.stride, self.blurred = (1, 1), number + 1
        outputs = convs[-1].out_channels
        self.relus = nn.ModuleList(nn.ReLU() for _ in convs)  # Modules, because Captum replaces their gradients.
        self.se = SqueezeExcitation(outputs) if architecture.squeeze_excitation else nn.Identity()
        self.downsample = architecture.shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = source = x
        for number in range(1, self.count + 1):
            conv, norm = (self.get_submodule(f"{name}{number}") for name in ("conv", self.norm_name))
            if self.pre_activation:
                y = self.relus[number - 1](norm(y))
                source = y if number == 1 else source
                y = conv(y)
            else:
                y = norm(conv(Blur()(y) if number == self.blurred else y))
                y = y if number == self.count else self.relus[number - 1](y)
        y = self.se(y) + (x if self.downsample is None else self.downsample(source))
        return y if self.pre_activation else self.relus[-1](y)


class FixupBlock(nn.Module):
    def __init__(self, architecture: Architecture, inputs: int, width: int, stride: int):
        super().__init__()
        convs = architecture.residual(inputs, width, stride)
        self.count = len(convs)
        for number, conv in enumerate(convs, 1):
            self.add_module(f"conv{number}", conv)
            self.register_parameter(f"bias{number}a", nn.Parameter(torch.zeros(1)))
            self.register_parameter(f"bias{number}b", nn.Parameter(torch.zeros(1)))
        self.scale = nn.Parameter(torch.ones(1))
        self.downsample = architecture.shortcut(inputs, convs[-1].out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = biased = x + self.bias1a
        for number in range(1, self.count + 1):
            last = number == self.count
            y = y if number == 1 else y + self.get_parameter(f"bias{number}a")
            y = self.get_submodule(f"conv{number}")(y)
            y = (y * self.scale if last else y) + self.get_parameter(f"bias{number}b")
            y = y if last else y.relu()
        return (y + (x if self.downsample is None else self.downsample(biased))).relu()


class FixupModel(nn.Sequential):
    """A sequence of modules that also adds a scalar after `conv1` and another scalar before `pool`."""

    def __init__(self, modules: Mapping[str, nn.Module]):
        super().__init__(OrderedDict(modules))
        self.bias1, self.bias2 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, module in self.named_children():
            x = module(x + self.bias2 if name == "pool" else x)
            x = x + self.bias1 if name == "conv1" else x
        return x


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class OptionA(nn.Module):
    """Strides by two, and doubles the channels by adding zeros, one half before and one half after the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        border = x.shape[1] // 2
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, border, border))


class Blur(nn.Module):
    """Filters with (1, 3, 3, 1) / 8 along height and width, with mirrored borders, and keeps every second value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        taps = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 8
        kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
        return functional.conv2d(functional.pad(x, (1, 2, 1, 2), "reflect"), kernel, stride=2, groups=x.shape[1])


class StandardizedConv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / torch.sqrt(variance + 1e-10), None)


def named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def randomize(model: nn.Module, seed: int) -> None:
    """Draw He-normal kernels and random other values; small residuals keep activations from growing with depth."""
    generator = torch.Generator().manual_seed(seed)
    for name, array in model.state_dict().items():
        if array.ndim > 1:
            array.normal_(0.0, (2 / array[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("weight", "running_var")):
            array.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            array.normal_(0.0, 0.3, generator=generator)
    for block in model.modules():
        if isinstance(block, Block):
            last = block.get_submodule(f"{block.norm_name}{block.count}")
            last.weight.data *= 0.2
            last.bias.data *= 0.2


def to_variables(arrays: Mapping[str, torch.Tensor], model: ResNet) -> dict[str, dict]:
    """Return our "params" and "batch_stats" from a state dict, or from gradients under the same names."""
    arrays = {name: array.detach().numpy() for name, array in arrays.items()}
    variables, _ = convert.to_variables(arrays, naming.find_schemes(arrays)[""], abstract_variables(model, 3))
    return {"batch_stats": {}} | variables
