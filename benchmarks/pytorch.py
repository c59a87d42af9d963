"""The contestants in PyTorch, with the reference models of the tests in `tests/models`."""

import dataclasses
from collections.abc import Callable

import torch

from benchmarks import contestants
from tests.models.torch_reference import ARCHITECTURES, make_airbench94, make_model


def make_torch_model(model_name: str) -> tuple[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor], str]:
    """Return the model in PyTorch, a function that normalizes its images, and its device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA does
    torch.backends.cudnn.benchmark = True
    model = _reference_model(model_name, contestants.NUM_CLASSES[model_name])
    model = model.to(device, memory_format=torch.channels_last)
    mean = torch.tensor(contestants.MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(contestants.STD, device=device).view(1, 3, 1, 1)

    def normalize(images: torch.Tensor) -> torch.Tensor:
        return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    return model, normalize, device


def _reference_model(model_name: str, num_classes: int) -> torch.nn.Module:
    if model_name == "airbench94":
        return make_airbench94(num_classes)
    variant = contestants.VARIANTS.get(model_name, model_name)
    architecture = dataclasses.replace(ARCHITECTURES[variant], cifar=contestants.IMAGE_SIZES[model_name] == 32)
    return make_model(architecture, num_classes)


def torch_eager(model_name: str, dtype: str, batch_size: int, compiled: bool = False) -> contestants.TakeSteps:
    """Return a function that takes train steps in PyTorch, with channels last, and with autocast for bfloat16."""
    model, normalize, device = make_torch_model(model_name)
    sgd = torch.optim.SGD(
        model.parameters(),
        contestants.LEARNING_RATE,
        contestants.MOMENTUM,
        weight_decay=contestants.WEIGHT_DECAY,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, contestants.NUM_EPOCHS * contestants.STEPS_PER_EPOCH)
    pixels, labels = contestants.random_batch(model_name, batch_size)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)  # a view, with channels last in memory
    labels = torch.from_numpy(labels).long().to(device)

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(normalize(images))
        return torch.nn.functional.cross_entropy(logits.float(), labels), (logits.argmax(1) == labels).float().mean()

    if compiled:
        forward = torch.compile(forward)

    def take_steps(steps: int) -> float:
        for _ in range(steps):
            sgd.zero_grad(set_to_none=True)
            loss, _ = forward(images)
            loss.backward()
            sgd.step()
            schedule.step()
        return loss.item()

    return take_steps


def torch_scoring(model_name: str, dtype: str, batch_size: int) -> contestants.TakeSteps:
    """Return a function that scores batches in host memory in PyTorch. A step is one batch."""
    model, normalize, device = make_torch_model(model_name)
    model.eval()
    pixels, labels = contestants.random_batch(model_name, batch_size)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    labels = torch.from_numpy(labels).long()

    @torch.inference_mode()
    def take_steps(steps: int) -> float:
        losses = []
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                logits = model(normalize(images.to(device)))
            losses.append(torch.nn.functional.cross_entropy(logits.float(), labels.to(device), reduction="none"))
        return torch.cat(losses).mean().item()

    return take_steps


def torch_predict(model_name: str, dtype: str, batch_size: int) -> contestants.TakeSteps:
    """Return a function that classifies a batch in host memory again and again, as in `exported.py`."""
    del dtype
    model, normalize, device = make_torch_model(model_name)
    model.eval()
    images = torch.from_numpy(contestants.random_batch(model_name, batch_size)[0]).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def take_steps(steps: int) -> float:
        for _ in range(steps):
            probabilities = model(normalize(images.to(device))).softmax(dim=-1).cpu()
        return probabilities.mean().item()

    return take_steps


def torch_compile(model_name: str, dtype: str, batch_size: int) -> contestants.TakeSteps:
    """Return a function that takes train steps in PyTorch with `torch.compile`."""
    return torch_eager(model_name, dtype, batch_size, compiled=True)
