"""CIFAR-100, with the recipe of CIFAR-10.

    python main.py --config=configs/cifar100.py --workdir=/tmp/cifar100             # ResNet-18 with the CIFAR stem
    python main.py --config=configs/cifar100.py:resnet56 --workdir=/tmp/resnet56    # any other model, by name

Not measured yet.
"""

from configs import cifar10


def get_config(model: str = "resnet18"):
    config = cifar10.get_config(model)
    config.dataset.name = "cifar100"
    return config
