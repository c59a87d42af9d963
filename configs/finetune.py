"""Fine-tuning of a ResNet-50 trained on ImageNet, on CIFAR-10 at 224 pixels or on a folder of your own images.

    python main.py --config=configs/finetune.py --workdir=/tmp/finetune
    python main.py --config=configs/finetune.py:folder --config.dataset.name=folder:/path/to/images \\
        --config.init_from=resnet50.safetensors --workdir=/tmp/finetune
    python main.py --config=configs/finetune.py:head --config.init_from=resnet50.safetensors --workdir=/tmp/head

`init_from` takes a safetensors or PyTorch file of torchvision, timm or Hugging Face, hf://owner/name, or a run
directory. Its default here is hf://timm/resnet50.tv_in1k: torchvision's weights. Pixel mean and std come with the
weights.

Images are cropped and resized to 224 pixels, flipped, and rotated by up to 15 degrees. The images of CIFAR-10 stay in
memory at 32 pixels, and each step resizes the images of its batch. `:head` trains only the head, on CIFAR-10 unless
dataset.name is set. The others train all layers, those below the head at a tenth of the learning rate.

Training starts from a new head if the weights have another number of classes or record other classes. If they record
none, --config.init_skip="('head*',)" starts from a new head.

Not measured yet, because it takes an accelerator.
"""

from resnet_jax.config import default
from resnet_jax.errors import unknown_name

VARIANTS = ("cifar10", "folder", "head")


def get_config(variant: str = "cifar10"):
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    config = default()
    config.dataset.name = "folder:" if variant == "folder" else "cifar10"
    config.dataset.image_size = 224
    config.augment.random_resized_crop = (0.5, 1.0)
    config.augment.horizontal_flip = True
    config.augment.rotation = 15.0
    config.model.name = "resnet50"
    config.init_from = "hf://timm/resnet50.tv_in1k"
    config.batch_size = 64
    config.num_epochs = 10
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-4
    config.schedule.warmup_epochs = 0.5
    if variant == "head":
        config.freeze = ("stem*", "stage*")
    else:
        config.optimizer.backbone_scale = 0.1
    return config
