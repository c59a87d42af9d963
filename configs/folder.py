"""Your own images: a folder with one directory per class, with a recipe like that of ImageNet.

    python main.py inspect --config=configs/folder.py --config.dataset.name=folder:/path        # check the data first
    python main.py --config=configs/folder.py --config.dataset.name=folder:/path --workdir=/tmp/run
    python main.py --config=configs/folder.py:resnet18 --config.dataset.name=folder:/path --workdir=/tmp/run

The folder holds train/CLASS/IMAGE.jpg and, if you have them, val/ and test/ in the same form. Without val/, a tenth of
each class in train/ is held out for validation. If the folder holds only CLASS/IMAGE.jpg,
--config.dataset.train_split='train[:80%]' with --config.dataset.test_split='train[80%:]' splits it, each class in
proportion.

Ants and bees (122 training images at 224 pixels) take about 14 s per epoch with resnet18 on 2 CPU cores, evaluation
included. 122 images are too few to learn much from without pretraining, so we claim no accuracy.
"""

from resnet_jax.config import default


def get_config(model: str = "resnet50"):
    config = default()
    config.dataset.name = "folder:"
    config.dataset.image_size = 224
    config.augment.random_resized_crop = (0.08, 1.0)
    config.augment.horizontal_flip = True
    config.model.name = model
    config.batch_size = 32
    config.num_epochs = 90
    # As for ImageNet: 0.1 at a batch size of 256, and in proportion to the batch size (Goyal et al. 2017).
    config.optimizer.learning_rate = config.get_ref("batch_size").to_float() * (0.1 / 256)
    config.optimizer.exempt_norm_and_bias = True
    config.schedule.warmup_epochs = 5.0
    config.log_every_steps = 10
    return config
