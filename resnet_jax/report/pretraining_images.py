"""Composite images of a pre-trained model: the two views of training images, and the nearest neighbors of images."""

import base64
import contextlib
import dataclasses

import jax
import numpy as np

from resnet_jax import config as settings
from resnet_jax import image_grid
from resnet_jax.data.sources import open_sources
from resnet_jax.evaluation import nearest_neighbors
from resnet_jax.runtime import parallel
from resnet_jax.selfsupervised.embeddings import directions
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel
from resnet_jax.training import experiment as experiments
from resnet_jax.training.experiment import Experiment

PAIRS = 8  # of views
QUERIES = 6  # images whose neighbors are shown
NEIGHBORS = 5


@dataclasses.dataclass(frozen=True)
class Composite:
    """A composite image on the page.

    Attributes:
      title: its heading.
      caption: what it shows.
      uri: the image as a data URI.
    """

    title: str
    caption: str
    uri: str


def draw(trained: TrainedModel, reporter: Reporter, data_dir: str | None = None) -> list[Composite]:
    """Draw the composite images of a pre-trained model from the data that it was trained on.

    Args:
      trained: the model.
      reporter: shows the progress of reading the data.
      data_dir: where the data is; None: where it was in training.

    Raises:
      UserError: if the data cannot be opened.
    """
    dataset = trained.config.dataset
    reporter.max_unreadable = dataset.max_unreadable
    sources = open_sources(dataset.name, data_dir or dataset.data_dir)
    # On one device, because the number of all devices need not divide the batch size of the run.
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    experiment = experiments.build(trained.config, mesh, sources, reporter, is_new=False)
    with contextlib.closing(experiment.feed):
        return [_draw_views(experiment), _draw_neighbors(experiment, trained)]


def _draw_views(experiment: Experiment) -> Composite:
    views, labels = parallel.fetch(experiment.batch_at(0))
    grid = image_grid.labeled_grid(views[:PAIRS], labels[:PAIRS], experiment.classes, columns=8)
    caption = "What the model saw of the first training images. Training makes the embeddings of each pair alike."
    return Composite("Views", caption, _uri(grid))


def _draw_neighbors(experiment: Experiment, trained: TrainedModel) -> Composite:
    """Show some validation images, or training images if there are none, with their nearest training images."""

    def apply(variables: dict, images: jax.Array) -> jax.Array:
        outputs = trained.model.apply(variables, trained.preprocess(images), train=False)
        assert isinstance(outputs, jax.Array)
        return directions(outputs)

    bank, examples = experiment.bank, experiment.validation or experiment.bank
    assert bank is not None and examples is not None
    batch_size = settings.microbatch_size(trained.config)
    compute_features = nearest_neighbors.make_compute_features(apply, batch_size, trained.mesh)
    bank_features, queries = compute_features(trained.variables, bank), compute_features(trained.variables, examples)
    assert bank_features is not None and queries is not None  # Nothing interrupts it.
    # The first images of a folder may be alike, so take evenly spaced ones.
    positions = np.linspace(0, len(queries.values) - 1, QUERIES).astype(int)
    cosines = queries.values[positions] @ bank_features.values.T
    if examples is bank:
        cosines[np.arange(QUERIES), positions] = -np.inf  # An image is no neighbor of itself.
    nearest = np.argsort(-cosines, axis=-1, kind="stable")[:, :NEIGHBORS]
    images, captions = [], []
    for row, position in enumerate(positions):
        images += [
            *examples.images_at(queries.positions[[position]]),
            *bank.images_at(bank_features.positions[nearest[row]]),
        ]
        captions += ["image", *(f"cosine {cosines[row, index]:.3f}" for index in nearest[row])]
    what = "training" if examples is bank else "validation"
    caption = f"Six {what} images and, to the right of each, the training images whose features are most similar."
    return Composite("Nearest neighbors", caption, _uri(image_grid.grid(images, captions, columns=NEIGHBORS + 1)))


def _uri(pixels: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(image_grid.as_png(pixels)).decode()}"
