"""Pre-training on CIFAR-10 without labels, which are used only for validation, by nearest neighbors.

    python main.py --config=configs/pretrain.py:simclr --workdir=/tmp/pretrained
    python main.py probe --workdir=/tmp/pretrained

The variant is the method: byol, simclr, barlow_twins, vicreg or simsiam. Views are augmented with the strengths in the
method's paper, without blur, as SimCLR and SimSiam do for the small images of CIFAR-10. For larger images, set
augment.gaussian_blur=0.5, or 1.0 with pretrain.second_gaussian_blur=0.1 for byol and barlow_twins. All methods have the
same optimizer: SGD with the weight decay of SimSiam's experiments on CIFAR-10 (Chen & He 2021, appendix D), and, except
for vicreg, a learning rate of 0.06 for 128 images, as in the benchmark of the library lightly. The projector has three
layers of 512 units, because the model is small. If pretrain.projector is unset, the projector is that of the paper.
Accuracies that were measured with this recipe are in docs/pretraining.md.
"""

from resnet_jax.config import default
from resnet_jax.errors import unknown_name

# For each method: the smallest crop as a share of the area, the color jitter, and the probabilities of solarization of
# the first and the second view.
VIEWS = {
    "barlow_twins": (0.08, (0.4, 0.4, 0.2, 0.1), 0.0, 0.2),  # Zbontar et al. 2021, section 2.2: those of BYOL
    "byol": (0.08, (0.4, 0.4, 0.2, 0.1), 0.0, 0.2),  # Grill et al. 2020, appendix B
    "simclr": (0.08, (0.4, 0.4, 0.4, 0.1), 0.0, 0.0),  # Chen et al. 2020, appendix B.9
    "simsiam": (0.2, (0.4, 0.4, 0.4, 0.1), 0.0, 0.0),  # Chen & He 2021, appendices A and D
    "vicreg": (0.08, (0.4, 0.4, 0.2, 0.1), 0.1, 0.1),  # Bardes et al. 2022, appendix C.1
}


def get_config(method: str = "simclr"):
    if method not in VIEWS:
        raise unknown_name("variant", method, VIEWS)
    config = default()
    config.dataset.name = "cifar10"
    config.dataset.test_split = "none"
    smallest_crop, config.augment.color_jitter, config.augment.solarize, second_solarize = VIEWS[method]
    config.augment.random_resized_crop = (smallest_crop, 1.0)
    config.augment.horizontal_flip = True
    config.augment.color_jitter_share = 0.8
    config.augment.grayscale = 0.2
    config.model.name = "resnet20"
    config.model.stem = "cifar"
    config.pretrain.method = method
    config.pretrain.projector = (512, 512, 512)
    config.pretrain.predictor = (128, 512) if method in ("byol", "simsiam") else ()
    config.pretrain.second_solarize = second_solarize
    config.ema_decay = 0.99 if method == "byol" else None
    config.batch_size = 256
    config.num_epochs = 10
    # Two terms of VICReg's loss are weighted by 25, and so are their gradients: with 0.12, it diverges.
    config.optimizer.learning_rate = 0.12 if method != "vicreg" else 0.005
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 5e-4
    config.schedule.warmup_epochs = 1.0
    config.checkpoint.best_metric = "knn"
    config.early_stopping.metric = "knn"
    return config
