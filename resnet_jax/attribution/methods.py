"""The table of attribution methods, and the computation of maps by the name of a method."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from resnet_jax.attribution import cam, gradients, perturbation
from resnet_jax.attribution.attribution_model import AttributionModel, StageGradients
from resnet_jax.errors import UserError, unknown_name


class MapFunction(Protocol):
    """Computes maps in the resolution of the images; see `attribute` for the arguments."""

    def __call__(self, model: AttributionModel, images: jax.Array, targets: jax.Array, stage: str) -> jax.Array: ...


class CompletenessGaps(Protocol):
    """Computes the absolute error of the sum of each map, [batch], in units of the logit."""

    def __call__(
        self, model: AttributionModel, images: jax.Array, targets: jax.Array, maps: jax.Array
    ) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
      title: its name in figures and tables.
      compute: the function that computes the maps.
      uses_stage: whether the maps depend on the stage, as those of class activation maps do.
      completeness_gaps: the function that computes the error of the sum of each map; None: the maps need not sum to
        a certain value.
    """

    title: str
    compute: MapFunction
    uses_stage: bool
    completeness_gaps: CompletenessGaps | None = None


def _stage_method(title: str, function: Callable[[StageGradients], jax.Array]) -> Method:
    """Return a method that computes maps in the resolution of a stage, and enlarges them bilinearly."""

    def compute(model: AttributionModel, images: jax.Array, targets: jax.Array, stage: str) -> jax.Array:
        maps = function(model.stage_gradients(images, targets, stage))
        return jax.image.resize(maps, images.shape[:3], "bilinear")

    return Method(title, compute, uses_stage=True)


def _pixel_method(
    title: str,
    function: Callable[[AttributionModel, jax.Array, jax.Array], jax.Array],
    completeness_gaps: CompletenessGaps | None = None,
) -> Method:
    """Return a method that computes maps in the resolution of the images, whatever the stage."""

    def compute(model: AttributionModel, images: jax.Array, targets: jax.Array, stage: str) -> jax.Array:
        del stage
        return function(model, images, targets)

    return Method(title, compute, uses_stage=False, completeness_gaps=completeness_gaps)


METHODS = {
    "grad_cam": _stage_method("Grad-CAM", cam.grad_cam),
    "grad_cam_plus_plus": _stage_method("Grad-CAM++", cam.grad_cam_plus_plus),
    "hires_cam": _stage_method("HiResCAM", cam.hires_cam),
    "layer_cam": _stage_method("LayerCAM", cam.layer_cam),
    "input_gradient": _pixel_method("Input gradient", gradients.input_gradient),
    "smooth_grad": _pixel_method("SmoothGrad", gradients.smooth_grad),
    "integrated_gradients": _pixel_method(
        "Integrated gradients", gradients.integrated_gradients, gradients.completeness_gaps
    ),
    "guided_backpropagation": _pixel_method("Guided backpropagation", gradients.guided_backpropagation),
    "occlusion": _pixel_method("Occlusion", perturbation.occlusion),
    "rise": _pixel_method("RISE", perturbation.rise),
}


class SinglePosition(UserError):
    """The output of a stage is a single position, so a class activation map would be blank."""


def check(names: Sequence[str]) -> None:
    """Raise `UserError` if a name is not a method. The message suggests the nearest name."""
    for name in names:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)


def check_stage_resolution(
    model: AttributionModel, names: Sequence[str], image_shape: tuple[int, ...], stage: str | None
) -> None:
    """Raise `SinglePosition` if one of the methods would give blank maps.

    Args:
      model: the trained model.
      names: keys of `METHODS`.
      image_shape: (batch, height, width, channels) of the images.
      stage: the stage that class activation maps are computed from; None: the last one.
    """
    stage = stage or model.stages[-1]
    blank = [METHODS[name].title for name in names if METHODS[name].uses_stage]
    if not blank or model.stage_resolution(image_shape, stage) != (1, 1):
        return
    _, height, width, _ = image_shape
    earlier = model.stages[: model.stages.index(stage)]
    larger = [candidate for candidate in earlier if model.stage_resolution(image_shape, candidate) != (1, 1)]
    if larger:
        remedy = f"Choose an earlier stage ({', '.join(larger)})."
    else:
        stageless = [name for name, method in METHODS.items() if not method.uses_stage]
        remedy = f"Choose a method that uses no stage ({', '.join(stageless)})."
    raise SinglePosition(
        f"the output of {stage} is a single position for images of {height} x {width}, so the maps of "
        f"{' and '.join(blank)} would be blank. {remedy}"
    )


def attribute(
    model: AttributionModel, name: str, images: jax.Array, targets: jax.Array, stage: str | None = None
) -> jax.Array:
    """Return the maps of a method: float [batch, height, width], in the resolution of the images.

    The higher a value, the more important its pixel is for the target. HiResCAM, integrated gradients, occlusion and
    RISE give negative values to pixels that count against the target. Grad-CAM, Grad-CAM++ and LayerCAM drop negative
    values. The other methods return absolute values, so they do not say whether a pixel counts for or against the
    target.

    Args:
      model: the trained model.
      name: the method, a key of `METHODS`.
      images: normalized images, float [batch, height, width, channels].
      targets: a class index for each image, int [batch].
      stage: the stage that class activation maps are computed from; None: the last one.

    Raises:
      UserError: if there is no such method or stage.
    """
    check((name,))
    return METHODS[name].compute(model, images, targets, stage or model.stages[-1])
