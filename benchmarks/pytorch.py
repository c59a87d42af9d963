"""PyTorch's part in the comparisons: the same networks, from the tests that hold ours against them."""

import dataclasses
from collections.abc import Callable

import torch

from benchmarks import contestants
from tests.models.torch_reference import ARCHITECTURES, make_network


def network_of(network: str) -> tuple[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor], str]:
    """PyTorch's network, what normalises its pictures, and the device it is on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # As XLA does in float32.
    torch.backends.cudnn.benchmark = True
    architecture = dataclasses.replace(ARCHITECTURES[network], cifar=contestants.SIDES[network] == 32)
    module = make_network(architecture, contestants.CLASSES[network]).to(device, memory_format=torch.channels_last)
    mean, std = (torch.tensor(of, device=device).view(1, 3, 1, 1) for of in (contestants.MEAN, contestants.STD))

    def normalise(images: torch.Tensor) -> torch.Tensor:
        return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    return module, normalise, device


def torch_eager(network: str, dtype: str, batch_size: int, compiled: bool = False) -> contestants.Take:
    """PyTorch, with channels last, and with autocast for bfloat16."""
    module, normalise, device = network_of(network)
    sgd = torch.optim.SGD(
        module.parameters(),
        contestants.LEARNING_RATE,
        contestants.MOMENTUM,
        weight_decay=contestants.WEIGHT_DECAY,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, contestants.NUM_EPOCHS * contestants.STEPS_PER_EPOCH)
    pixels, labels = contestants.pictures(network, batch_size)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)  # A view: channels are last in memory.
    labels = torch.from_numpy(labels).long().to(device)

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = module(normalise(images))
        return torch.nn.functional.cross_entropy(logits.float(), labels), (logits.argmax(1) == labels).float().mean()

    forward = torch.compile(forward) if compiled else forward

    def take(steps: int) -> float:
        for _ in range(steps):
            sgd.zero_grad(set_to_none=True)
            loss, _ = forward(images)
            loss.backward()
            sgd.step()
            schedule.step()
        return loss.item()

    return take


def torch_scoring(network: str, dtype: str, batch_size: int) -> contestants.Take:
    """Losses of batches in host memory."""
    module, normalise, device = network_of(network)
    module.eval()
    pixels, labels = contestants.pictures(network, batch_size)
    images, labels = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels).long()

    @torch.inference_mode()
    def take(steps: int) -> float:
        losses = []
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                logits = module(normalise(images.to(device)))
            losses.append(torch.nn.functional.cross_entropy(logits.float(), labels.to(device), reduction="none"))
        return torch.cat(losses).mean().item()

    return take


def torch_compile(network: str, dtype: str, batch_size: int) -> contestants.Take:
    return torch_eager(network, dtype, batch_size, compiled=True)
