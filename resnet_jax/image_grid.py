"""Pictures laid out to be looked at: in a grid with captions, or in rows with titles."""

import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# All in pixels.
CELL = 96  # a side of the square that a picture of a grid is shown in
LARGE_CELL = 128  # the same, in rows
GAP = 4
CAPTION = 17  # height of a line of text
FONT_SIZE = 13
WIDEST_TITLE = 160
AROUND_TITLE = 16

COLUMNS = 4  # about the width at which TensorBoard shows pictures, so that captions stay legible
PAPER, BESIDE, INK, PALE_INK = "white", "#f0f0f0", "black", "#808080"


def grid(images: Sequence[np.ndarray], captions: Sequence[str], columns: int = COLUMNS) -> np.ndarray:
    """Lays pictures out one after another, each with its caption (lines split by a newline) beneath.

    Args:
      images: n pictures, each uint8 [height, width, channels], channels 1 or 3.
      captions: n of them.
      columns: pictures a row.

    Returns:
      uint8 [grid_height, grid_width, 3].
    """
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    cell_height = CELL + lines * CAPTION + GAP
    canvas = _paper(columns * (CELL + GAP) + GAP, -(-len(images) // columns) * cell_height + GAP)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + index % columns * (CELL + GAP)
        top = GAP + index // columns * cell_height
        _show(canvas, image, left, top, CELL)
        for line, text in enumerate(caption.split("\n")):
            _write(canvas, text, left, top + CELL + line * CAPTION, CELL, INK)
    return np.asarray(canvas)


def labelled(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], columns: int = COLUMNS) -> np.ndarray:
    """Lays out a training batch, each picture with its class, of a soft label the likeliest one.

    Args:
      images: [batch, height, width, channels] in [0, 255], of any type.
      labels: int [batch], or float [batch, classes].
      classes: their names.
      columns: pictures a row.
    """
    labels = labels if labels.ndim == 1 else labels.argmax(axis=-1)
    return grid(images.round().astype(np.uint8), [classes[label] for label in labels], columns)


def titled_rows(titles: Sequence[tuple[str, str]], images: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Lays pictures out in rows, each with its title to the left.

    Args:
      titles: n titles, each with a line that stands beneath it, paler.
      images: n rows of pictures, each uint8 [height, width, channels], channels 1 or 3.

    Returns:
      uint8 [height, width, 3].
    """
    title_width = min(WIDEST_TITLE, max(_width(text) for title in titles for text in title))
    start = title_width + 2 * AROUND_TITLE
    step = LARGE_CELL + GAP
    canvas = _paper(start + max(map(len, images)) * step, len(titles) * step + GAP)
    for row, (title, pictures) in enumerate(zip(titles, images, strict=True)):
        top = GAP + row * step
        for line, (text, ink) in enumerate(zip(title, (INK, PALE_INK), strict=True)):
            _write(canvas, text, AROUND_TITLE, top + LARGE_CELL // 2 + (line - 1) * CAPTION, title_width, ink)
        for column, image in enumerate(pictures):
            _show(canvas, image, start + column * step, top, LARGE_CELL)
    return np.asarray(canvas)


def _paper(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def _show(canvas: Image.Image, image: np.ndarray, left: int, top: int, cell: int) -> None:
    """Puts a picture into the middle of its cell, as large as it fits in there whole."""
    height, width = image.shape[:2]
    scale = cell / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Small pictures keep their pixels, which is what one wants to inspect; of large ones most would be left out.
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    shown = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB").resize(size, resampling)
    canvas.paste(BESIDE, (left, top, left + cell, top + cell))
    canvas.paste(shown, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))


def _write(canvas: Image.Image, text: str, left: int, top: int, width: int, ink: str) -> None:
    ImageDraw.Draw(canvas).text((left, top), _shorten(text, width), fill=ink, font=_font())


def _shorten(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while text and _width(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _width(text: str) -> int:
    return math.ceil(_font().getlength(text))


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=FONT_SIZE)
