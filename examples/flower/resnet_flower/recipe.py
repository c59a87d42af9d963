"""The settings of the server and of all clients, on Flower as well as in a simulation by `main.py federate`.

Mean and std of the pixels are set, because no machine has all images to measure them on. The steps per round are set
too, because their numbers decide which random numbers a client draws, and no client knows how many steps others take.
"""

from resnet_jax.config import default


def get_config():
    config = default()
    config.dataset.name = "clients:"
    config.dataset.image_size = 32
    config.dataset.mean = (0.5, 0.5, 0.5)
    config.dataset.std = (0.25, 0.25, 0.25)
    config.dataset.validation_split = "none"
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = "resnet20"
    config.model.norm = "group_norm"
    config.batch_size = 16
    config.num_epochs = 3
    config.optimizer.learning_rate = 0.003  # for real data, rather 0.05; verify.py needs a low one, see README.md
    config.schedule.name = "constant"
    config.federated.partition = "directories"
    config.federated.clients = 2
    config.federated.local_steps = 5
    config.log_every_steps = 1
    return config
