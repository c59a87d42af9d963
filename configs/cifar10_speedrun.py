"""CIFAR-10 in a few epochs: the network and the recipe of airbench94 with Muon (Jordan 2024).

    python main.py --config=configs/cifar10_speedrun.py --workdir=/tmp/speedrun        # 94 %, on two CPU cores
    python main.py --config=configs/cifar10_speedrun.py:96 --workdir=/tmp/speedrun96   # 96 %, for an accelerator

It trains on all 50,000 training images and takes the last checkpoint. The test split is scored in a single view, and
with test-time augmentation (mirroring, and moving by a pixel).
"""

from resnet_jax.config import default


def get_config(percent: str = "94"):
    config = default()
    config.dataset.name = "cifar10"
    config.dataset.validation_split = "none"
    config.augment.crop_padding = 2
    config.augment.crop_border = "reflect"
    config.augment.alternating_flip = True
    config.model.name = f"airbench{percent}"
    config.batch_norm.momentum = 0.6
    config.batch_norm.epsilon = 1e-12
    config.batch_size = 512
    config.num_epochs = 8
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.12
    config.optimizer.momentum = 0.6
    config.optimizer.weight_decay = 0.0
    config.optimizer.fixed_kernel_norm = True
    config.optimizer.rate_factors = ("*/bias=0.04", "head/*=0.01")
    config.schedule.name = "linear"
    config.loss.label_smoothing = 0.2
    config.freeze = ("stem_conv/kernel", "*/scale")
    config.tta = "mirror_translate"
    config.log_every_steps = 20
    return config
