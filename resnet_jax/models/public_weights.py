"""The table of public weights: for each named model, the weights on the Hugging Face hub that fit it exactly.

The weights of a variant are those that timm publishes for the same architecture: the same stem, shortcuts,
squeeze-and-excitation and padding, and the stride in the 3x3 convolution. One difference remains: where BiT
standardizes kernels, timm adds 1e-8 to their variance, and we add 1e-10.

These ImageNet models have no public weights: `resnetv2_152`, `seresnet18`, `seresnet34`, `seresnet101`, `seresnet152`
(timm has none with this architecture), the anti-aliased models (timm's have another filter) and `fixup_resnet50`.

Sources, all of them timm's (https://github.com/huggingface/pytorch-image-models):
  architectures, mean, std, number of classes: `timm/models/resnet.py` at commit 00c5be7 and `resnetv2.py` at 0085149;
  top-1, image size, crop: `results/results-imagenet.csv` at commit 0173a13. It lacks a few weights: the numbers of
    resnet34.tv_in1k are from the model cards on the hub, those of resnet50d.ra4_e3600_r224_in1k from `README.md` at
    commit 015ac30, and those of resnetv2_34 from https://huggingface.co/blog/rwightman/resnet-trick-or-treat;
  licenses: the same model files, which state those of torchvision's and Facebook's weights; all others are apache-2.0,
    the default of timm's model cards. We have read only some of these cards, so check the license of yours.
"""

import dataclasses

from resnet_jax.errors import UserError, program, unknown_name
from resnet_jax.models.variants import VARIANTS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION_MEAN, INCEPTION_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

NUM_CLASSES = {"in1k": 1000, "in21k": 21843}  # by the last part of the tag: the dataset that the head is for
LICENSES = {"tv": "bsd-3-clause", "tv2": "bsd-3-clause", "fb": "cc-by-nc-4.0"}  # by the first part of the tag
OTHER_LICENSE = "apache-2.0"


@dataclasses.dataclass(frozen=True)
class PublicWeights:
    """A row of `PUBLIC_WEIGHTS`.

    Attributes:
      tag: the name of the weights among those of the model. It abbreviates the recipe and the dataset.
      hub_id: the repository on the Hugging Face hub.
      top1: accuracy in [0, 1] on the validation split of ImageNet-1k, as published by timm; None: we know of no such
        number, or the weights are for other classes.
      image_size: height and width in pixels of the images on which `top1` was measured.
      eval_resize: the short side in pixels of these images before the center crop.
      mean, std: per channel, of pixels in [0, 1].
      license: the identifier of the license.
      num_classes: the number of classes of the head.

    Example:
      >>> weights = find("resnet50", "tv_in1k")
      >>> weights.hub_id, weights.top1, weights.image_size, weights.eval_resize, weights.license
      ('timm/resnet50.tv_in1k', 0.7613, 224, 256, 'bsd-3-clause')
    """

    tag: str
    hub_id: str
    top1: float | None
    image_size: int
    eval_resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    license: str
    num_classes: int

    @property
    def address(self) -> str:
        """The address to load the weights from, as in `init_from`."""
        return f"hf://{self.hub_id}"


def _timm(architecture: str, *rows: tuple[str, float | None, int, float]) -> tuple[PublicWeights, ...]:
    """Return the rows of a variant that timm calls `architecture`.

    Args:
      architecture: timm's name of the architecture.
      *rows: tag, top-1 in percent, image size, and the ratio of image size to resized short side (timm's "crop_pct").
    """
    weights = []
    for tag, top1_percent, image_size, crop in rows:
        recipe, *_, dataset = tag.removesuffix("_384").split("_")
        inception = architecture.startswith("resnetv2") or recipe == "ra4"
        weights.append(
            PublicWeights(
                tag=tag,
                hub_id=f"timm/{architecture}.{tag}",
                top1=None if top1_percent is None else round(top1_percent / 100, 5),
                image_size=image_size,
                eval_resize=int(image_size / crop),
                mean=INCEPTION_MEAN if inception else IMAGENET_MEAN,
                std=INCEPTION_STD if inception else IMAGENET_STD,
                license=LICENSES.get(recipe, OTHER_LICENSE),
                num_classes=NUM_CLASSES[dataset],
            )
        )
    return tuple(weights)


# The first weights of a model are its default. They are timm's default, except for `resnext101_32x4d`: the license of
# timm's default for it excludes commercial use.
PUBLIC_WEIGHTS: dict[str, tuple[PublicWeights, ...]] = {
    "resnet18": _timm(
        "resnet18",
        ("a1_in1k", 73.158, 288, 1.0),
        ("a2_in1k", 72.372, 288, 1.0),
        ("a3_in1k", 68.254, 224, 0.95),
        ("tv_in1k", 69.760, 224, 0.875),
        ("gluon_in1k", 70.838, 224, 0.875),
        ("fb_ssl_yfcc100m_ft_in1k", 72.594, 224, 0.875),
        ("fb_swsl_ig1b_ft_in1k", 73.282, 224, 0.875),
    ),
    "resnet34": _timm(
        "resnet34",
        ("a1_in1k", 77.918, 288, 1.0),
        ("a2_in1k", 77.158, 288, 1.0),
        ("a3_in1k", 72.970, 224, 0.95),
        ("bt_in1k", 76.480, 288, 0.95),
        ("tv_in1k", 73.32, 224, 0.875),
        ("gluon_in1k", 74.578, 224, 0.875),
    ),
    "resnet50": _timm(
        "resnet50",
        ("a1_in1k", 81.214, 288, 1.0),
        ("a1h_in1k", 80.676, 224, 1.0),
        ("a2_in1k", 80.772, 288, 1.0),
        ("a3_in1k", 78.048, 224, 0.95),
        ("b1k_in1k", 80.706, 288, 1.0),
        ("b2k_in1k", 80.454, 288, 1.0),
        ("c1_in1k", 80.912, 288, 1.0),
        ("c2_in1k", 80.870, 288, 1.0),
        ("d_in1k", 80.972, 288, 1.0),
        ("ram_in1k", 79.976, 288, 0.95),
        ("am_in1k", 78.998, 224, 0.875),
        ("ra_in1k", 79.836, 288, 0.95),
        ("bt_in1k", 79.640, 288, 0.95),
        ("tv_in1k", 76.130, 224, 0.875),
        ("tv2_in1k", 80.850, 224, 0.965),
        ("gluon_in1k", 77.580, 224, 0.875),
        ("fb_ssl_yfcc100m_ft_in1k", 79.234, 224, 0.875),
        ("fb_swsl_ig1b_ft_in1k", 81.182, 224, 0.875),
    ),
    "resnet101": _timm(
        "resnet101",
        ("a1h_in1k", 82.778, 288, 1.0),
        ("a1_in1k", 82.322, 288, 1.0),
        ("a2_in1k", 82.236, 288, 1.0),
        ("a3_in1k", 79.814, 224, 0.95),
        ("tv_in1k", 77.376, 224, 0.875),
        ("tv2_in1k", 81.890, 224, 0.965),
        ("gluon_in1k", 79.310, 224, 0.875),
    ),
    "resnet152": _timm(
        "resnet152",
        ("a1h_in1k", 83.450, 288, 1.0),
        ("a1_in1k", 82.732, 288, 1.0),
        ("a2_in1k", 82.608, 288, 1.0),
        ("a3_in1k", 80.546, 224, 0.95),
        ("tv_in1k", 78.322, 224, 0.875),
        ("tv2_in1k", 82.288, 224, 0.965),
        ("gluon_in1k", 79.694, 224, 0.875),
    ),
    "resnetv2_18": _timm("resnetv2_18", ("ra4_e3600_r224_in1k", None, 224, 0.9)),
    "resnetv2_34": _timm("resnetv2_34", ("ra4_e3600_r224_in1k", 77.636, 224, 0.9)),
    "resnetv2_50": _timm("resnetv2_50", ("a1h_in1k", 81.398, 288, 1.0)),
    "resnetv2_101": _timm("resnetv2_101", ("a1h_in1k", 83.002, 288, 1.0)),
    "wide_resnet50_2": _timm(
        "wide_resnet50_2",
        ("racm_in1k", 82.280, 288, 0.95),
        ("tv_in1k", 78.480, 224, 0.875),
        ("tv2_in1k", 81.606, 224, 0.965),
    ),
    "wide_resnet101_2": _timm(
        "wide_resnet101_2",
        ("tv_in1k", 78.838, 224, 0.875),
        ("tv2_in1k", 82.498, 224, 0.965),
    ),
    "resnext50_32x4d": _timm(
        "resnext50_32x4d",
        ("a1h_in1k", 82.014, 288, 1.0),
        ("a1_in1k", 81.466, 288, 1.0),
        ("a2_in1k", 81.304, 288, 1.0),
        ("a3_in1k", 79.268, 224, 0.95),
        ("ra_in1k", 80.698, 288, 0.95),
        ("tv_in1k", 77.618, 224, 0.875),
        ("tv2_in1k", 81.182, 224, 0.965),
        ("gluon_in1k", 79.360, 224, 0.875),
        ("fb_ssl_yfcc100m_ft_in1k", 80.338, 224, 0.875),
        ("fb_swsl_ig1b_ft_in1k", 82.174, 224, 0.875),
    ),
    "resnext101_32x4d": _timm(
        "resnext101_32x4d",
        ("gluon_in1k", 80.340, 224, 0.875),
        ("fb_ssl_yfcc100m_ft_in1k", 80.924, 224, 0.875),
        ("fb_swsl_ig1b_ft_in1k", 83.232, 224, 0.875),
    ),
    "resnext101_32x8d": _timm(
        "resnext101_32x8d",
        ("tv_in1k", 79.310, 224, 0.875),
        ("tv2_in1k", 82.832, 224, 0.965),
        ("fb_wsl_ig1b_ft_in1k", 82.698, 224, 0.875),
        ("fb_ssl_yfcc100m_ft_in1k", 81.606, 224, 0.875),
        ("fb_swsl_ig1b_ft_in1k", 84.302, 224, 0.875),
    ),
    "resnext101_64x4d": _timm(
        "resnext101_64x4d",
        ("c1_in1k", 83.156, 288, 1.0),
        ("tv_in1k", 82.992, 224, 0.875),
        ("gluon_in1k", 80.600, 224, 0.875),
    ),
    "seresnet50": _timm(
        "seresnet50",
        ("a1_in1k", 81.102, 288, 1.0),
        ("a2_in1k", 81.106, 288, 1.0),
        ("a3_in1k", 77.028, 224, 0.95),
        ("ra2_in1k", 81.284, 288, 0.95),
    ),
    "seresnext50_32x4d": _timm(
        "seresnext50_32x4d",
        ("racm_in1k", 82.196, 288, 0.95),
        ("gluon_in1k", 79.910, 224, 0.875),
    ),
    "seresnext101_32x4d": _timm("seresnext101_32x4d", ("gluon_in1k", 80.892, 224, 0.875)),
    "resnet18d": _timm("resnet18d", ("ra2_in1k", 73.794, 288, 0.95)),
    "resnet34d": _timm("resnet34d", ("ra2_in1k", 78.436, 288, 0.95)),
    "resnet50d": _timm(
        "resnet50d",
        ("ra2_in1k", 81.356, 288, 0.95),
        ("ra4_e3600_r224_in1k", 81.838, 288, 1.0),
        ("a1_in1k", 81.450, 288, 1.0),
        ("a2_in1k", 81.164, 288, 1.0),
        ("a3_in1k", 78.722, 224, 0.95),
        ("gluon_in1k", 79.078, 224, 0.875),
    ),
    "resnet101d": _timm("resnet101d", ("ra2_in1k", 83.016, 320, 1.0), ("gluon_in1k", 80.426, 224, 0.875)),
    "resnet152d": _timm("resnet152d", ("ra2_in1k", 83.684, 320, 1.0), ("gluon_in1k", 80.476, 224, 0.875)),
    "bit_r50x1": _timm(
        "resnetv2_50x1_bit",
        ("goog_distilled_in1k", 82.820, 224, 0.875),
        ("goog_in21k_ft_in1k", 80.340, 448, 1.0),
        ("goog_in21k", None, 224, 0.875),
    ),
    "bit_r50x3": _timm("resnetv2_50x3_bit", ("goog_in21k_ft_in1k", 84.020, 448, 1.0), ("goog_in21k", None, 224, 0.875)),
    "bit_r101x1": _timm(
        "resnetv2_101x1_bit", ("goog_in21k_ft_in1k", 82.342, 448, 1.0), ("goog_in21k", None, 224, 0.875)
    ),
    "bit_r101x3": _timm(
        "resnetv2_101x3_bit", ("goog_in21k_ft_in1k", 84.438, 448, 1.0), ("goog_in21k", None, 224, 0.875)
    ),
    "bit_r152x2": _timm(
        "resnetv2_152x2_bit",
        ("goog_teacher_in21k_ft_in1k", 82.876, 224, 0.875),
        ("goog_teacher_in21k_ft_in1k_384", 83.834, 384, 1.0),
        ("goog_in21k_ft_in1k", 84.510, 448, 1.0),
        ("goog_in21k", None, 224, 0.875),
    ),
    "bit_r152x4": _timm(
        "resnetv2_152x4_bit", ("goog_in21k_ft_in1k", 84.916, 480, 1.0), ("goog_in21k", None, 224, 0.875)
    ),
}


def find(name: str, tag: str | None = None) -> PublicWeights:
    """Return the public weights of a model.

    Args:
      name: a key of `VARIANTS`.
      tag: the tag of the weights; None: the default.

    Raises:
      UserError: if there is no such model, it has no public weights, or none with this tag.

    Example:
      >>> find("resnet50").hub_id
      'timm/resnet50.a1_in1k'
      >>> find("bit_r50x1", "goog_in21k").num_classes
      21843
    """
    if name not in VARIANTS:
        raise unknown_name("model", name, VARIANTS)
    if name not in PUBLIC_WEIGHTS:
        raise UserError(
            f"{name} has no public weights. To list the models that have some, run: {program()} models --pretrained"
        )
    by_tag = {weights.tag: weights for weights in PUBLIC_WEIGHTS[name]}
    if tag is None:
        return PUBLIC_WEIGHTS[name][0]
    if tag not in by_tag:
        raise UserError(f"{name} has no public weights {tag!r}. Choose one of {', '.join(by_tag)}.")
    return by_tag[tag]
