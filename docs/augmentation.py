"""Makes docs/augmentation.png, which shows what each augmentation does to real photographs.

    python docs/augmentation.py

Each row shows three random draws on each of two photographs, made by the function that training calls, with the setting
that stands above. The photographs come with scikit-learn, which has them from danielbuechele (china.jpg) and vultilion
(flower.jpg) on Flickr, under CC BY 2.0.
"""

import pathlib
import sys

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sklearn.datasets import load_sample_images

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # So that the package need not be installed.

from resnet_jax import config as settings  # noqa: E402
from resnet_jax.data.augment import pipeline  # noqa: E402

DRAWS = 3
SEED = 389  # chosen, so that so few draws show most of what can happen
SIZE = 224  # pixels on a side of what is augmented, as in training on ImageNet
CELL, GAP, MARGIN, TITLE = 132, 6, 14, 24  # pixels on the page
ROWS = [
    ({}, "the pictures as they are"),
    ({"random_resized_crop": (0.08, 1.0)}, "a part of 8 to 100 % of the area, resized to the whole"),
    ({"crop_padding": 28}, "moved by up to 28 pixels, over black"),
    ({"horizontal_flip": True}, "mirrored, half of the time"),
    ({"rotation": 30.0}, "turned by up to 30 degrees; gaps get the mean colour of the data set"),
    ({"color_jitter": (0.4, 0.4, 0.4, 0.1)}, "brightness, contrast, saturation and hue changed"),
    ({"randaugment": (1, 9)}, "one of 14 operations, at magnitude 9 of 10"),
    ({"randaugment": (2, 9)}, "two operations"),
    ({"randaugment": (3, 9, 0.5)}, "three operations, the magnitude varied by 0.5"),
    ({"random_erasing": 0.5}, "a rectangle is erased, half of the time"),
    ({"cutout": 96}, "a square of 96 pixels is erased, as far as it lies within the picture"),
    ({"mixup": 1.0}, "averaged with the other, as are the labels; its own share is {shares}"),
    ({"cutmix": 1.0}, "a part of the other is pasted; its own share, in the label too, is {shares}"),
]


def main() -> None:
    pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    images = np.stack([ImageOps.fit(picture, (SIZE, SIZE), Image.Resampling.LANCZOS) for picture in pictures])
    page = draw([augmented(images, chosen, fill=images.mean((0, 1, 2))) for chosen, _ in ROWS])
    # A palette of colours makes the file a third as large.
    palette = page.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2)
    page.quantize(palette=palette).save(ROOT / "docs/augmentation.png", optimize=True)


def augmented(images: np.ndarray, chosen: dict, fill: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`DRAWS` of what the settings `chosen` make of uint8 [n, SIZE, SIZE, 3].

    Returns:
      uint8 [n, DRAWS, SIZE, SIZE, 3], and float32 [DRAWS], the shares that pictures have in themselves.
    """
    config = settings.default().augment
    config.update(chosen)
    pipeline.check(config, len(images))
    augment = jax.jit(pipeline.from_config(config, len(images), fill))
    draws, shares = [], []
    for key in jax.random.split(jax.random.key(SEED), DRAWS):
        drawn, labels = augment(key, images, np.arange(len(images)))
        draws.append(np.asarray(drawn).round().astype(np.uint8))
        shares.append(labels[0, 0] if labels.ndim == 2 else 1.0)
    return np.stack(draws, axis=1), np.array(shares)


def draw(rows: list[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """The page: in each row the draws of one picture beside those of the next, above them the setting."""
    setting_font, text_font = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
    group, height = DRAWS * (CELL + GAP) + GAP, TITLE + CELL + MARGIN
    page = Image.new("RGB", (2 * MARGIN + len(rows[0][0]) * group - 2 * GAP, MARGIN + len(rows) * height), "white")
    pen = ImageDraw.Draw(page)
    for row, ((chosen, text), (pictures, shares)) in enumerate(zip(ROWS, rows, strict=True)):
        top = MARGIN + row * height
        setting = "".join(f"augment.{name} = {value}" for name, value in chosen.items()) or "no augmentation"
        pen.text((MARGIN, top + 14), setting, fill="black", font=setting_font, anchor="ls")
        text = text.format(shares=", ".join(f"{share:.0%}" for share in shares))
        text_left = MARGIN + pen.textlength(setting, font=setting_font) + 12
        pen.text((text_left, top + 14), text, fill="dimgray", font=text_font, anchor="ls")
        for number, column in np.ndindex(pictures.shape[:2]):
            picture = Image.fromarray(pictures[number, column]).resize((CELL, CELL), Image.Resampling.LANCZOS)
            page.paste(picture, (MARGIN + number * group + column * (CELL + GAP), top + TITLE))
    return page


if __name__ == "__main__":
    main()
