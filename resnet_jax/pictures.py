"""Grids of captioned pictures, for TensorBoard and for people."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 96  # pixels on a side that a picture is shown at
CAPTION = 17  # pixels of height for a line of caption
GAP = 4
COLUMNS = 4  # about the width at which TensorBoard shows pictures, so that captions stay legible


def grid(images: np.ndarray, captions: Sequence[str], columns: int = COLUMNS) -> np.ndarray:
    """Lays pictures out in rows, each with its caption (lines split by a newline) beneath.

    Args:
      images: uint8 [n, height, width, channels], channels 1 or 3.
      captions: n of them.
      columns: pictures a row.

    Returns:
      uint8 [grid_height, grid_width, 3].
    """
    font = ImageFont.load_default(size=13)
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    cell_height = CELL + lines * CAPTION + GAP
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * cell_height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + index % columns * (CELL + GAP)
        top = GAP + index // columns * cell_height
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        # Nearest neighbour: small pictures keep their pixels, which is what one wants to inspect.
        canvas.paste(Image.fromarray(pixels).convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(caption.split("\n")):
            draw.text((left, top + CELL + line * CAPTION), _shorten(text, draw, font), fill="black", font=font)
    return np.asarray(canvas)


def _shorten(text: str, draw: ImageDraw.ImageDraw, font) -> str:
    if draw.textlength(text, font=font) <= CELL:
        return text
    while text and draw.textlength(text + "…", font=font) > CELL:
        text = text[:-1]
    return text + "…"
