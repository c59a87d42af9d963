"""Image files and folders for tests: common, unusual and unreadable ones."""

import io
import pathlib

import numpy as np
from PIL import Image

CLASSES = ("circle", "cross", "dot")


def make_image_folder(root: pathlib.Path, **images_per_class: int) -> pathlib.Path:
    """Write JPEG files of many image sizes to `root/split/class/`, and return `root`.

    Args:
      root: the folder.
      **images_per_class: how many images of each class to write, by split, such as `train=16`.
    """
    for split, count in images_per_class.items():
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                random_image(1000 * label + index).save(root / split / name / f"{split}{index}.jpg")
    return root


def random_image(seed: int) -> Image.Image:
    """Return a smooth RGB image of random size."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(36, 80, 2)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
    return coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)


def encode_image(image: Image.Image, file_format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def unusual_image_files() -> dict[str, bytes]:
    """Return files of unusual formats that must be readable, by name."""
    image = random_image(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    gray16 = Image.fromarray(np.linspace(0, 65535, 50 * 40).reshape(50, 40).astype(np.uint16))
    palette = image.convert("P")
    return {
        "gray.jpg": encode_image(image.convert("L"), "JPEG"),
        "cmyk.jpg": encode_image(image.convert("CMYK"), "JPEG"),
        "rotated.jpg": encode_image(image, "JPEG", exif=exif),
        "UPPER.JPEG": encode_image(image, "JPEG"),
        "palette.png": encode_image(palette, "PNG"),
        "alpha.png": encode_image(image.convert("RGBA"), "PNG"),
        "sixteen.png": encode_image(gray16, "PNG"),
        "animated.gif": encode_image(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        "web.webp": encode_image(image, "WEBP"),
        "bitmap.bmp": encode_image(image, "BMP"),
    }


def unreadable_image_files() -> dict[str, bytes]:
    """Return files that cannot be read as images, by name."""
    return {
        "cut.jpg": encode_image(random_image(1), "JPEG")[:-200],
        "nothing.png": b"",
        "text.jpg": b"This is not an image.",
        "bomb.png": encode_image(Image.new("1", (20_000, 20_000)), "PNG"),
        "cut.gif": encode_image(random_image(2).convert("P"), "GIF")[:-300],
    }
