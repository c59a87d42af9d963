"""Progressive resizing: train on small images in the first epochs, which is faster, and on full-sized ones in the last.

Known from fast.ai's entries to DAWNBench (Howard 2018); EfficientNetV2 (Tan & Le 2021, section 4.2) and FFCV's recipes
for ResNet-50 train in this way. The last epochs should see the size that evaluation uses, because features and batch
statistics depend on the size at which objects appear (Touvron et al. 2019).
"""

from collections.abc import Sequence
from typing import NamedTuple

from resnet_jax.errors import UserError


class Phase(NamedTuple):
    """Epochs with images of one size.

    Attributes:
      image_size: height and width in pixels.
      end: the share of the epochs, in (0, 1], after which the phase ends.
    """

    image_size: int
    end: float


def parse(entries: Sequence[str]) -> list[Phase]:
    """Return the phases that the setting `augment.progressive_resizing` describes.

    Raises:
      UserError: if an entry has another form, or if the ends do not rise.

    Example:
      >>> parse(("128=0.3", "160=0.6"))
      [Phase(image_size=128, end=0.3), Phase(image_size=160, end=0.6)]
    """
    phases: list[Phase] = []
    for entry in entries:
        try:
            size, end = entry.split("=")
            phase = Phase(int(size), float(end))
        except (AttributeError, ValueError):
            phase = Phase(0, 0.0)
        previous_end = phases[-1].end if phases else 0.0
        if phase.image_size < 1 or not previous_end < phase.end <= 1:
            raise UserError(
                f"augment.progressive_resizing has an entry of the wrong form ({entry!r}). Write a size in pixels and "
                "the share of the epochs after which it ends, such as '160=0.5'. The shares must rise, up to 1."
            )
        phases.append(phase)
    return phases


def image_size(phases: Sequence[Phase], done: float) -> int | None:
    """Return the size of the training images in pixels; None after the last phase, when images keep their full size.

    Args:
      phases: as `parse` returns them.
      done: the share of the epochs that are done, in [0, 1).

    Example:
      >>> phases = parse(("128=0.3", "160=0.6"))
      >>> [image_size(phases, epoch / 5) for epoch in range(5)]
      [128, 128, 160, None, None]
    """
    return next((phase.image_size for phase in phases if done < phase.end), None)
