"""Federated training on CIFAR-10: ten clients, one local epoch per round, FedAvg (McMahan et al. 2017).

    python main.py federate --config=configs/federated_cifar10.py --workdir=/tmp/federated        # equal clients
    python main.py federate --config=configs/federated_cifar10.py:0.1 --workdir=/tmp/skewed       # one class each

The variant is "iid", the alpha of a Dirichlet distribution over the classes (Hsu et al. 2019), or "central" for the
same training without clients. The model has group normalization, because the batch statistics of clients with different
classes do not fit one another (Hsieh et al. 2020, section 5). docs/federated.md has accuracies after ten rounds.
"""

from resnet_jax.config import default
from resnet_jax.errors import UserError


def get_config(variant: str = "iid"):
    config = default()
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = "resnet20"
    config.model.stem = "cifar"
    config.model.norm = "group_norm"
    config.batch_size = 64
    config.num_epochs = 30
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "constant"
    if variant == "central":
        return config
    config.federated.clients = 10
    config.log_every_steps = 1
    if variant == "iid":
        config.federated.partition = "iid"
        return config
    config.federated.partition = "dirichlet"
    try:
        config.federated.alpha = float(variant)
    except ValueError:
        raise UserError(f"unknown variant {variant!r}. Choose iid, central, or a number above 0 such as 0.1.") from None
    return config
