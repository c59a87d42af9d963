"""ResNet-50 on ImageNet-1k, with two recipes from the literature. We have not run them yet; that takes an accelerator.

    python main.py --config=configs/imagenet.py --workdir=/tmp/imagenet
    python main.py --config=configs/imagenet.py:strikes_back_a3 --workdir=/tmp/a3

Default: 90 epochs of SGD at 224 pixels (Goyal et al. 2017, https://arxiv.org/abs/1706.02677), who report 76.3 % top-1.
The learning rate is proportional to batch_size. There are two differences: their warm-up starts at a learning rate of
0.1, ours at zero; their BatchNorm normalizes each group of 32 examples separately, ours the whole batch together.

`strikes_back_a3`: 100 epochs at 160 pixels with LAMB and binary cross-entropy (Wightman et al. 2021, procedure A3,
https://arxiv.org/abs/2110.00476), who report 78.1 % top-1 at 224 pixels.

TFDS needs ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in <data_dir>/downloads/manual, and prepares them once.
The checkpoint is chosen on a hundredth of the training images, which is held out. The test split is the official
validation split. It is read once, at the end.
"""

from ml_collections import ConfigDict

from resnet_jax.config import default
from resnet_jax.errors import unknown_name


def get_config(recipe: str = "goyal"):
    if recipe not in ("goyal", "strikes_back_a3"):
        raise unknown_name("variant", recipe, ("goyal", "strikes_back_a3"))
    config = default()
    config.dataset.name = "imagenet2012"
    config.dataset.train_split = "train[:99%]"
    config.dataset.validation_split = "train[99%:]"
    config.dataset.test_split = "validation"  # The labels of the dataset's own "test" are secret.
    config.dataset.mean = (0.485, 0.456, 0.406)
    config.dataset.std = (0.229, 0.224, 0.225)
    config.augment.random_resized_crop = (0.08, 1.0)
    config.augment.horizontal_flip = True
    config.model.name = "resnet50"
    config.model.dtype = "bfloat16"
    config.model.zero_init_residual = True
    config.schedule.warmup_epochs = 5.0
    config.optimizer.exempt_norm_and_bias = True
    if recipe == "goyal":
        _goyal(config)
    else:
        _strikes_back_a3(config)
    return config


def _goyal(config: ConfigDict) -> None:
    config.dataset.image_size = 224
    config.dataset.eval_resize = 256
    config.dataset.eval_crop = 224
    config.batch_size = 1024
    config.num_epochs = 90
    config.optimizer.learning_rate = config.get_ref("batch_size").to_float() * (0.1 / 256)
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.step_epochs = (30, 60, 80)


def _strikes_back_a3(config: ConfigDict) -> None:
    config.dataset.image_size = 160
    config.dataset.eval_resize = 236  # 224 / 0.95
    config.dataset.eval_crop = 224
    config.augment.randaugment = (2, 6, 0.5)
    config.augment.mixup = 0.1
    config.augment.cutmix = 1.0
    config.batch_size = 2048
    config.num_epochs = 100
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 8e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.grad_clip = 1.0  # Their code clips like this in LAMB; the paper does not mention it.
    config.loss.name = "binary_cross_entropy"
    config.loss.target_threshold = 0.2
