"""MNIST: ResNet-20 on 28x28 grayscale images.

    python main.py --config=configs/mnist.py --workdir=/tmp/mnist         # SGD with a cosine schedule
    python main.py --config=configs/mnist.py:adam --workdir=/tmp/adam     # the setup used in the Keras tutorials:
                                                                          # Adam at 0.001, one-hot cross-entropy,
                                                                          # 10 epochs

With --config.num_epochs=1, the first command gives 99.18 % test top-1 (n = 10,000, one seed), in 93 s on 2 CPU cores,
including the preparation of the dataset. Ten epochs have not been measured yet.
"""

from resnet_jax.config import default
from resnet_jax.errors import unknown_name


def get_config(variant: str = "sgd"):
    if variant not in ("sgd", "adam"):
        raise unknown_name("variant", variant, ("sgd", "adam"))
    config = default()
    config.dataset.name = "mnist"
    config.model.name = "resnet20"
    config.batch_size = 128
    config.num_epochs = 10
    config.schedule.warmup_epochs = 0.1
    if variant == "adam":
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 0.0
        config.schedule.name = "constant"
        config.schedule.warmup_epochs = 0.0
        config.loss.name = "softmax_cross_entropy_one_hot"
    return config
