"""Folders of pictures, good and bad, as users have them."""

import io
import pathlib

import numpy as np
from PIL import Image

CLASSES = ("circle", "cross", "dot")


def make_folder(root: pathlib.Path, **sizes: int) -> pathlib.Path:
    """Writes JPEGs of many sizes: of each class so many a split, such as `train=16`."""
    for split, count in sizes.items():
        for number, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture(1000 * number + index).save(root / split / name / f"{split}{index}.jpg")
    return root


def picture(seed: int) -> Image.Image:
    """A smooth coloured picture of a size of its own."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(36, 80, 2)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
    return coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def odd_but_readable() -> dict[str, bytes]:
    """Picture files that must not trouble anyone, by name."""
    image, exif = picture(0), Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.linspace(0, 65535, 50 * 40).reshape(50, 40).astype(np.uint16))
    palette = image.convert("P")
    return {
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "turned.jpg": encoded(image, "JPEG", exif=exif),
        "UPPER.JPEG": encoded(image, "JPEG"),
        "palette.png": encoded(palette, "PNG"),
        "alpha.png": encoded(image.convert("RGBA"), "PNG"),
        "sixteen.png": encoded(grey16, "PNG"),
        "moving.gif": encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        "web.webp": encoded(image, "WEBP"),
        "bitmap.bmp": encoded(image, "BMP"),
    }


def unreadable() -> dict[str, bytes]:
    """Files that are none, by name."""
    return {
        "cut.jpg": encoded(picture(1), "JPEG")[:-200],
        "nothing.png": b"",
        "text.jpg": b"I am not a picture.",
        "bomb.png": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
        "cut.gif": encoded(picture(2).convert("P"), "GIF")[:-300],
    }
