"""ResNet-20 on scikit-learn's handwritten digits, which need no download: the recipe to try first.

    python main.py --config=configs/digits.py --workdir=/tmp/digits

98.9 to 99.7 % test top-1 (n = 359, three seeds), in 19 to 22 s on 2 CPU cores, including start-up and compilation.
"""

from resnet_jax.config import default


def get_config():
    config = default()
    config.dataset.name = "digits"
    config.model.name = "resnet20"
    config.batch_size = 64
    config.num_epochs = 30
    config.augment.crop_padding = 1
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.schedule.warmup_epochs = 1.0
    config.log_every_steps = 10
    return config
