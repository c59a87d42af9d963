"""CIFAR-10 with a model of He et al. 2015 in 32 epochs instead of 200, for two CPU cores.

    python main.py --config=configs/cifar10_short.py --workdir=/tmp/short             # ResNet-20
    python main.py --config=configs/cifar10_short.py:resnet56 --workdir=/tmp/short56  # any other model, by name

ResNet-20 reaches 91.46 ± 0.05 % on the test split in 1 h 10 min: mean and standard deviation of three seeds (`python -m
benchmarks.accuracy cifar10_short --seeds=3`, commits 22aec83, fca7836 and 832d0c5, 2 cores of an AMD EPYC (family 25,
model 1), 2026-12-01). He et al. report 91.25 % (table 6).

The optimizer is Muon with kernels of fixed norm, as in configs/cifar10_speedrun.py, and the learning rate falls
linearly to zero. In the first half of the epochs, images have 24 x 24 pixels, which makes a step almost twice as fast.
The recipe trains on all 50,000 training images and takes the last checkpoint.
"""

from resnet_jax.config import default


def get_config(model: str = "resnet20"):
    config = default()
    config.dataset.name = "cifar10"
    config.dataset.validation_split = "none"
    config.augment.crop_padding = 2
    config.augment.crop_border = "reflect"
    config.augment.alternating_flip = True
    config.augment.progressive_resizing = ("24=0.5",)
    config.model.name = model
    config.model.stem = "cifar"
    config.batch_size = 256
    config.num_epochs = 32
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.08
    config.optimizer.weight_decay = 2e-3
    config.optimizer.fixed_kernel_norm = True
    config.schedule.name = "linear"
    return config
