"""Fashion-MNIST: ResNet-20 on 28x28 grayscale images, with random crops and flips.

    python main.py --config=configs/fashion_mnist.py --workdir=/tmp/fashion_mnist

Not measured yet.
"""

from resnet_jax.config import default


def get_config():
    config = default()
    config.dataset.name = "fashion_mnist"
    config.model.name = "resnet20"
    config.augment.crop_padding = 2
    config.augment.horizontal_flip = True
    config.batch_size = 128
    config.num_epochs = 30
    config.schedule.warmup_epochs = 1.0
    return config
