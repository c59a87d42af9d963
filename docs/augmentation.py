"""Write docs/augmentation.png, which shows the effect of each augmentation on real photographs.

    python docs/augmentation.py

Each row shows three random draws on each of two photographs, made by the function that training calls with the setting
above the row. The photographs come with scikit-learn. They are by danielbuechele (china.jpg) and vultilion (flower.jpg)
on Flickr, under CC BY 2.0.
"""

import pathlib
import sys

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sklearn.datasets import load_sample_images

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # The package need not be installed.

from resnet_jax import config as settings  # noqa: E402  See above.
from resnet_jax.data.augment import pipeline  # noqa: E402  See above.

DRAWS = 3
SEED = 389  # chosen so that few draws show most of what can happen
SIZE = 224  # side in pixels of the augmented images, as in training on ImageNet
CELL, GAP, MARGIN, TITLE = 132, 6, 14, 24  # in pixels of the page
ROWS = [
    ({}, "the images, unchanged"),
    ({"random_resized_crop": (0.08, 1.0)}, "a crop of 8 to 100 % of the area, resized to the full size"),
    ({"crop_padding": 28}, "shifted by up to 28 pixels, over black"),
    ({"horizontal_flip": True}, "mirrored with probability 0.5"),
    ({"rotation": 30.0}, "rotated by up to 30 degrees; gaps get the mean color of the dataset"),
    ({"color_jitter": (0.4, 0.4, 0.4, 0.1)}, "brightness, contrast, saturation and hue changed"),
    ({"grayscale": 0.5}, "turned gray with probability 0.5"),
    ({"gaussian_blur": 0.5}, "blurred with probability 0.5, with a sigma of 0.1 to 2 pixels"),
    ({"solarize": 0.5}, "values of at least 128 inverted with probability 0.5"),
    ({"randaugment": (1, 9)}, "one of 14 operations, at magnitude 9 of 10"),
    ({"randaugment": (2, 9)}, "two operations"),
    ({"randaugment": (3, 9, 0.5)}, "three operations, magnitude with std 0.5"),
    ({"trivial_augment": True}, "one of the 14 operations, at a random strength up to larger ranges"),
    ({"random_erasing": 0.5}, "a rectangle is erased with probability 0.5"),
    ({"cutout": 96}, "a square of 96 pixels is erased, as far as it lies within the image"),
    ({"mixup": 1.0}, "averaged with the other image, as are the labels; weight of the image itself: {weights}"),
    ({"cutmix": 1.0}, "a box of the other image is pasted; share of the image itself, also in the label: {weights}"),
]


def main() -> None:
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    images = np.stack([ImageOps.fit(photograph, (SIZE, SIZE), Image.Resampling.LANCZOS) for photograph in photographs])
    page = draw_page([augment(images, overrides, fill=images.mean((0, 1, 2))) for overrides, _ in ROWS])
    # A palette makes the file a third as large.
    palette = page.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2)
    page.quantize(palette=palette).save(ROOT / "docs/augmentation.png", optimize=True)


def augment(images: np.ndarray, overrides: dict, fill: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Augment each image `DRAWS` times.

    Args:
      images: uint8 [n, SIZE, SIZE, 3].
      overrides: the `augment` settings that differ from their defaults.
      fill: the color of gaps.

    Returns:
      The augmented images, uint8 [n, DRAWS, SIZE, SIZE, 3], and the weight of the first image's own label in its label,
      float32 [DRAWS].
    """
    config = settings.default().augment
    config.update(overrides)
    pipeline.check(config, len(images))
    augment_batch = jax.jit(pipeline.from_config(config, len(images), fill))
    draws = []
    weights = []
    for key in jax.random.split(jax.random.key(SEED), DRAWS):
        augmented, labels = augment_batch(key, images, np.arange(len(images)))
        draws.append(np.asarray(augmented).round().astype(np.uint8))
        weights.append(labels[0, 0] if labels.ndim == 2 else 1.0)
    return np.stack(draws, axis=1), np.array(weights)


def draw_page(rows: list[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """Return the page: per row, a title, and the draws of the first image to the left of those of the second."""
    setting_font, text_font = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
    group_width = DRAWS * (CELL + GAP) + GAP
    row_height = TITLE + CELL + MARGIN
    width = 2 * MARGIN + len(rows[0][0]) * group_width - 2 * GAP
    page = Image.new("RGB", (width, MARGIN + len(rows) * row_height), "white")
    pen = ImageDraw.Draw(page)
    for row, ((overrides, text), (images, weights)) in enumerate(zip(ROWS, rows, strict=True)):
        top = MARGIN + row * row_height
        setting = "".join(f"augment.{name} = {value}" for name, value in overrides.items()) or "no augmentation"
        pen.text((MARGIN, top + 14), setting, fill="black", font=setting_font, anchor="ls")
        text = text.format(weights=", ".join(f"{weight:.0%}" for weight in weights))
        text_left = MARGIN + pen.textlength(setting, font=setting_font) + 12
        pen.text((text_left, top + 14), text, fill="dimgray", font=text_font, anchor="ls")
        for number, column in np.ndindex(images.shape[:2]):
            cell = Image.fromarray(images[number, column]).resize((CELL, CELL), Image.Resampling.LANCZOS)
            page.paste(cell, (MARGIN + number * group_width + column * (CELL + GAP), top + TITLE))
    return page


if __name__ == "__main__":
    main()
