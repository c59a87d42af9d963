"""Composite images for people to look at: a grid with captions, rows with titles, or a strip with a color scale."""

import functools
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# In pixels.
CELL = 96  # side of the square cell of an image in a grid
ROW_CELL = 128  # side of the square cell of an image in titled rows
STRIP_CELL = 224  # side of the square cell of an image in a strip
SCALE_WIDTH = 16
GAP = 4
LINE_HEIGHT = 17
FONT_SIZE = 13
MAX_TITLE_WIDTH = 160
TITLE_MARGIN = 16

COLUMNS = 4  # gives about the width at which TensorBoard shows images, so that captions stay legible
BACKGROUND = "white"
CELL_BACKGROUND = "#f0f0f0"
TEXT = "black"
PALE_TEXT = "#808080"


class Scale(NamedTuple):
    """A vertical color scale.

    Attributes:
      colors: uint8 [levels, 1, 3], from top to bottom.
      top, bottom: what the ends of the scale mean.
    """

    colors: np.ndarray
    top: str
    bottom: str


def grid(images: Sequence[np.ndarray] | np.ndarray, captions: Sequence[str], columns: int = COLUMNS) -> np.ndarray:
    """Arrange images in a grid, each with its caption below it.

    Args:
      images: n images, each uint8 [height, width, channels] with 1 or 3 channels.
      captions: n captions. A newline starts another line.
      columns: images per row.

    Returns:
      uint8 [grid_height, grid_width, 3].

    Example:
      >>> grid(np.zeros((3, 8, 8, 1), np.uint8), ["a", "b", "c"], columns=2).shape
      (238, 204, 3)
    """
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    cell_height = CELL + lines * LINE_HEIGHT + GAP
    canvas = _canvas(columns * (CELL + GAP) + GAP, math.ceil(len(images) / columns) * cell_height + GAP)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + index % columns * (CELL + GAP)
        top = GAP + index // columns * cell_height
        _draw_image(canvas, image, left, top, CELL)
        for line, text in enumerate(caption.split("\n")):
            _draw_text(canvas, text, left, top + CELL + line * LINE_HEIGHT, CELL, TEXT)
    return np.asarray(canvas)


def labeled_grid(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], columns: int = COLUMNS) -> np.ndarray:
    """Arrange a training batch in a grid, each image captioned with its class.

    With soft labels, it is the class with the largest share, or all classes that share the first place. The two views
    of an image in pre-training are captioned as such.

    Args:
      images: [batch, height, width, channels] in [0, 255], of any dtype; in pre-training, [batch, 2, ...].
      labels: int [batch], or float [batch, classes].
      classes: the class names.
      columns: images per row.

    Returns:
      uint8 [grid_height, grid_width, 3].
    """
    if images.ndim == 5:
        captions = ["first view", "second view"] * len(images)
        images = images.reshape(-1, *images.shape[2:])
    elif labels.ndim == 1:
        captions = [classes[label] for label in labels]
    else:
        largest = (labels == labels.max(axis=-1, keepdims=True)) & (labels > 0)
        captions = [", ".join(classes[label] for label in np.flatnonzero(row).tolist()) for row in largest]
    return grid(images.round().astype(np.uint8), captions, columns)


def titled_rows(
    titles: Sequence[tuple[str, str]],
    images: Sequence[Sequence[np.ndarray]],
    headings: Sequence[str] = (),
    scale: Scale | None = None,
) -> np.ndarray:
    """Arrange images in rows, each row with its title to the left.

    Args:
      titles: n titles, each with a subtitle that is shown below it in a paler color.
      images: n rows of images, each uint8 [height, width, channels] with 1 or 3 channels.
      headings: a heading for each column of images; empty: no headings.
      scale: the color scale to the right of the first row; None: no scale.

    Returns:
      uint8 [height, width, 3].
    """
    title_width = min(MAX_TITLE_WIDTH, max(_text_width(text) for title in titles for text in title))
    images_left = title_width + 2 * TITLE_MARGIN
    images_top = GAP + (LINE_HEIGHT if headings else 0)
    pitch = ROW_CELL + GAP
    scale_left = images_left + max(map(len, images)) * pitch
    canvas = _canvas(scale_left + (_scale_width(scale) if scale else 0), images_top + len(titles) * pitch)
    for column, heading in enumerate(headings):
        _draw_text(canvas, heading, images_left + column * pitch, 0, ROW_CELL, TEXT)
    for row, (title, row_images) in enumerate(zip(titles, images, strict=True)):
        top = images_top + row * pitch
        for line, (text, color) in enumerate(zip(title, (TEXT, PALE_TEXT), strict=True)):
            text_top = top + ROW_CELL // 2 + (line - 1) * LINE_HEIGHT
            _draw_text(canvas, text, TITLE_MARGIN, text_top, title_width, color)
        for column, image in enumerate(row_images):
            _draw_image(canvas, image, images_left + column * pitch, top, ROW_CELL)
    if scale:
        _draw_scale(canvas, scale, scale_left, images_top, ROW_CELL)
    return np.asarray(canvas)


def strip(images: Sequence[np.ndarray], captions: Sequence[str], scale: Scale) -> np.ndarray:
    """Arrange images side by side, each with its caption below it, and a color scale to the right.

    Args:
      images: n images, each uint8 [height, width, channels] with 1 or 3 channels.
      captions: n captions. A newline starts another line.
      scale: the color scale.

    Returns:
      uint8 [height, width, 3].
    """
    lines = max(caption.count("\n") + 1 for caption in captions)
    pitch = STRIP_CELL + GAP
    scale_left = GAP + len(images) * pitch
    canvas = _canvas(scale_left + _scale_width(scale), STRIP_CELL + lines * LINE_HEIGHT + 3 * GAP)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + index * pitch
        _draw_image(canvas, image, left, GAP, STRIP_CELL)
        for line, text in enumerate(caption.split("\n")):
            _draw_text(canvas, text, left, STRIP_CELL + 2 * GAP + line * LINE_HEIGHT, STRIP_CELL, TEXT)
    _draw_scale(canvas, scale, scale_left, GAP, STRIP_CELL)
    return np.asarray(canvas)


def as_png(pixels: np.ndarray) -> bytes:
    """Encode an image, uint8 [height, width, 3], as the content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _canvas(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), BACKGROUND)


def _draw_image(canvas: Image.Image, image: np.ndarray, left: int, top: int, cell: int) -> None:
    """Draw an image in the middle of its cell, as large as the cell allows."""
    height, width = image.shape[:2]
    scale = cell / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Nearest-neighbor enlargement keeps single pixels visible. Nearest-neighbor reduction would drop most of them.
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    resized = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB").resize(size, resampling)
    canvas.paste(CELL_BACKGROUND, (left, top, left + cell, top + cell))
    canvas.paste(resized, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))


def _draw_scale(canvas: Image.Image, scale: Scale, left: int, top: int, height: int) -> None:
    """Draw a color scale, with the meaning of its ends to its right."""
    canvas.paste(Image.fromarray(scale.colors).resize((SCALE_WIDTH, height)), (left, top))
    for text, text_top in ((scale.top, top), (scale.bottom, top + height - LINE_HEIGHT)):
        _draw_text(canvas, text, left + SCALE_WIDTH + GAP, text_top, _text_width(text), TEXT)


def _scale_width(scale: Scale) -> int:
    """Return the width of a color scale with its texts and a gap to its right."""
    return SCALE_WIDTH + GAP + max(_text_width(scale.top), _text_width(scale.bottom)) + GAP


def _draw_text(canvas: Image.Image, text: str, left: int, top: int, width: int, color: str) -> None:
    ImageDraw.Draw(canvas).text((left, top), _shorten(text, width), fill=color, font=_font())


def _shorten(text: str, width: int) -> str:
    """Return the text, cut and ended with an ellipsis if it is wider than `width` pixels."""
    if _text_width(text) <= width:
        return text
    while text and _text_width(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _text_width(text: str) -> int:
    return math.ceil(_font().getlength(text))


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=FONT_SIZE)  # type: ignore[return-value]  # a size selects the FreeType font
