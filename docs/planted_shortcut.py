"""Write docs/planted_shortcut.png: what maps show of a model that has learned a shortcut, and of one that has not.

    python docs/planted_shortcut.py

The images are scikit-learn's digits with a bright patch at their border. In the training images of the first model,
the place of the patch reveals the class; in those of the second one, it is random. Both models are then explained on
the same test images, where the patch reveals the class.
"""

import pathlib
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # The package need not be installed.

import resnet_jax  # noqa: E402  See above.
from resnet_jax import config as settings  # noqa: E402  See above.
from resnet_jax import image_grid  # noqa: E402  See above.
from resnet_jax.attribution.methods import METHODS  # noqa: E402  See above.
from resnet_jax.data.sources import ArraySource, open_sources  # noqa: E402  See above.
from resnet_jax.inference.overlays import color_scale, overlay  # noqa: E402  See above.
from resnet_jax.trained_model import TrainedModel  # noqa: E402  See above.

SIDE, MARGIN, PATCH = 16, 4, 3  # in pixels: side of an image, margin around the digit, side of the patch
# The top left corner of the patch for each class, along the border.
PLACES = np.array([(0, 0), (0, 4), (0, 9), (0, 13), (13, 0), (13, 4), (13, 9), (13, 13), (6, 0), (6, 13)])
EXPLAINED = ("layer_cam", "integrated_gradients", "occlusion")
STAGE = "stage2"  # Its output has 8 x 8 positions, that of the last stage only 4 x 4.
SHOWN = ("2", "5", "8")  # classes; the figure has the first test image of each


def plant(source: ArraySource, is_informative: bool) -> ArraySource:
    """Return the digits with a margin and a patch, at the position of their class or at a random one."""
    images = np.zeros((len(source), SIDE, SIDE, 1), np.uint8)
    images[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = source.images
    places = source.labels if is_informative else np.random.default_rng(0).integers(len(PLACES), size=len(source))
    for image, (top, left) in zip(images, PLACES[places], strict=True):
        image[top : top + PATCH, left : left + PATCH] = 255
    return ArraySource(images, source.labels, source.classes)


def train(is_informative: bool, workdir: str) -> TrainedModel:
    """Train a ResNet-20 for a few epochs."""
    config = settings.default()
    config.model.name = "resnet20"
    config.num_epochs = 6
    config.batch_size = 64
    config.optimizer.learning_rate = 0.1
    config.schedule.warmup_epochs = 1.0
    sources = {split: plant(source, is_informative) for split, source in open_sources("digits").items()}
    resnet_jax.train(config, workdir, sources)
    return resnet_jax.load_run(workdir)


def test_images() -> ArraySource:
    """Return the digits of the test split, with a patch that reveals the class."""
    return plant(open_sources("digits")["test"], is_informative=True)


def share_in_patch(maps: np.ndarray, labels: np.ndarray) -> float:
    """Return which share of the positive values lies in the patch and one pixel around it, on average over the images.

    The patch lies at the border, so these are 16 or 20 of the 256 pixels.

    Args:
      maps: float32 [n, height, width].
      labels: int [n].
    """
    shares = []
    for values, (top, left) in zip(np.maximum(maps, 0), PLACES[labels], strict=True):
        around = values[max(top - 1, 0) : top + PATCH + 1, max(left - 1, 0) : left + PATCH + 1]
        shares.append(around.sum() / max(values.sum(), 1e-12))
    return float(np.mean(shares))


def main() -> None:
    source = test_images()
    chance = share_in_patch(np.ones(source.images.shape[:3]), source.labels)
    print(f"a map of equal values has {chance:.0%} in the patch")
    shown = [source.labels.tolist().index(source.classes.index(name)) for name in SHOWN]
    rows, titles = [], []
    with tempfile.TemporaryDirectory() as directory:
        for is_informative, title in ((True, "informative patch"), (False, "random patch")):
            model = train(is_informative, f"{directory}/{is_informative}")
            predictions = model.predict(source.images)
            print(f"{title}: test accuracy {np.mean(predictions.labels == source.labels):.2%}")
            maps = {name: model.explain(source.images, name, stage=STAGE) for name in EXPLAINED}
            for name in EXPLAINED:
                print(f"  {METHODS[name].title}: {share_in_patch(maps[name], source.labels):.0%} in the patch")
            for position in shown:
                image = source.images[position]
                rows.append([image, *(overlay(image, maps[name][position]) for name in EXPLAINED)])
                titles.append((title, f"predicted: {predictions.names[position]}"))
    headings = ["Image", *(METHODS[name].title for name in EXPLAINED)]
    figure = image_grid.titled_rows(titles, rows, headings, color_scale())
    Image.fromarray(figure).save(ROOT / "docs" / "planted_shortcut.png", optimize=True)


if __name__ == "__main__":
    main()
