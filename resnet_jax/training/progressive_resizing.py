"""Progressive resizing: train on small images in the first epochs, which is faster, and on full-sized ones in the last.

Known from fast.ai's entries to DAWNBench (Howard 2018); EfficientNetV2 (Tan & Le 2021, section 4.2) and FFCV's recipes
for ResNet-50 train in this way. The last epochs should see the size that evaluation uses, because features and batch
statistics depend on the size at which objects appear (Touvron et al. 2019).
"""

from collections.abc import Sequence
from typing import NamedTuple

from resnet_jax.errors import UserError


class Stage(NamedTuple):
    """A part of training with images of one size.

    Attributes:
      image_size: height and width in pixels.
      end: the share of the epochs, in (0, 1], after which the stage ends.
    """

    image_size: int
    end: float


def parse(entries: Sequence[str]) -> list[Stage]:
    """Return the stages that the setting `augment.progressive_resizing` describes.

    Raises:
      UserError: if an entry has another form, or if the ends do not rise.

    Example:
      >>> parse(("128=0.3", "160=0.6"))
      [Stage(image_size=128, end=0.3), Stage(image_size=160, end=0.6)]
    """
    stages: list[Stage] = []
    for entry in entries:
        try:
            size, end = entry.split("=")
            stage = Stage(int(size), float(end))
        except (AttributeError, ValueError):
            stage = Stage(0, 0.0)
        previous_end = stages[-1].end if stages else 0.0
        if stage.image_size < 1 or not previous_end < stage.end <= 1:
            raise UserError(
                f"augment.progressive_resizing has an entry of the wrong form ({entry!r}). Write a size in pixels and "
                "the share of the epochs after which it ends, such as '160=0.5'. The shares must rise, up to 1."
            )
        stages.append(stage)
    return stages


def image_size(stages: Sequence[Stage], done: float) -> int | None:
    """Return the size of the training images in pixels; None after the last stage, when images keep their full size.

    Args:
      stages: as `parse` returns them.
      done: the share of the epochs that are done, in [0, 1).

    Example:
      >>> stages = parse(("128=0.3", "160=0.6"))
      >>> [image_size(stages, epoch / 5) for epoch in range(5)]
      [128, 128, 160, None, None]
    """
    return next((stage.image_size for stage in stages if done < stage.end), None)
