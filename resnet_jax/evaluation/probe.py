"""Quality of features, measured by a linear probe and by nearest neighbors, with all labels or a few of them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax import randomness
from resnet_jax.data import feed_config, splits
from resnet_jax.data.dataset import (
    TRAINING,
    VALIDATION,
    check_splits,
    common_classes,
    examples_of_run,
    open_evaluation_data,
)
from resnet_jax.data.feed import EvaluationData
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation import linear_probe, nearest_neighbors
from resnet_jax.evaluation.evaluate import with_channels_of
from resnet_jax.evaluation.metrics import Interval, wilson_interval
from resnet_jax.evaluation.nearest_neighbors import LabeledFeatures
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter, table
from resnet_jax.trained_model import TrainedModel

FRACTIONS = (1.0, 0.1, 0.01)
RANDOM = "random weights"  # the name of the reference
STATISTICS_IMAGES = 256  # images from which the batch statistics of random weights are computed


@dataclasses.dataclass(frozen=True)
class Score:
    """A share of correctly classified examples, with its 95 % confidence interval (Wilson 1927)."""

    value: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """Accuracy of classifiers on the features of a model, for one number of training labels.

    Attributes:
      features: the run directory, or `RANDOM`.
      fraction: the share of the training labels that is used.
      labels: their number.
      strength: C of the logistic regression, chosen on validation.
      validation_top1: its accuracy on the validation examples.
      top1, top5: its accuracy on the test examples; `top5` is None with fewer than six classes.
      knn: the accuracy of nearest neighbors on the test examples.
    """

    features: str
    fraction: float
    labels: int
    strength: float
    validation_top1: float
    top1: Score
    top5: Score | None
    knn: Score


def probe(
    models: Mapping[str, TrainedModel],
    dataset: ConfigDict,
    sources: Mapping[str, Source],
    reporter: Reporter,
    fractions: Sequence[float] = FRACTIONS,
) -> list[ProbeResult]:
    """Probe the features of models, and of the first model with random weights. Read each test example once per model.

    Args:
      models: the models, by run directory.
      dataset: the `dataset` settings of the labeled data; the splits that they leave open are filled in.
      sources: the base splits of the labeled data.
      reporter: shows the progress, and counts the images that cannot be read.
      fractions: shares of the training labels, each class in proportion.

    Raises:
      UserError: if the data has no labels, no validation split or no test split, or does not fit the models.
    """
    if len(common_classes(sources)) < 2:
        raise UserError("a probe needs labels, and this dataset has a single class. Choose another with --config.")
    if any(getattr(source, "label_sets", None) is not None for source in sources.values()):
        raise UserError("a probe needs one label per image. Choose another dataset with --config.")
    splits.resolve(dataset, sources)
    check_splits(dataset, sources)
    for purpose in ("validation", "test"):
        if dataset[f"{purpose}_split"] == splits.NO_SPLIT:
            raise UserError(
                f"a probe needs a {purpose} split. Give --config=RECIPE --config.dataset.{purpose}_split=SPLIT, where "
                "RECIPE names the dataset."
            )
    results = []
    first = next(iter(models.values()))
    subsets = {purpose: examples_of_run(dataset, sources, purpose, reporter) for purpose in (TRAINING, VALIDATION)}
    subsets["test"] = Subset.from_split(sources, dataset.test_split)
    for name, model in [*models.items(), (RANDOM, with_random_weights(first, subsets[TRAINING]))]:
        train, validation, test = _read_features(name, model, dataset.name, subsets, reporter)
        for fraction in fractions:
            part = train if fraction == 1 else train.take(splits.hold_out(train.labels, fraction)[1])
            if len(np.unique(part.labels)) < 2:
                raise UserError(
                    f"{fraction:.2%} of the training labels are {len(part.labels)} examples of fewer than two classes. "
                    "Choose a larger --fractions."
                )
            results.append(_score(name, fraction, part, validation, test))
    return results


def with_random_weights(trained: TrainedModel, images: Subset) -> TrainedModel:
    """Return a model with the initial weights of its run's seed, and the batch statistics of some training images.

    With the initial batch statistics, the features of deep models would be useless, and the reference too weak.
    """
    key = randomness.key(trained.config.seed, Use.INITIAL_WEIGHTS)
    images = with_channels_of(trained, images)
    examples = feed_config.external_examples(trained.config.dataset, images, num_workers=0, reporter=None)
    positions = np.arange(min(STATISTICS_IMAGES, len(images)))
    batch = trained.preprocess(jnp.asarray(examples.images_at(positions)))
    # As in evaluation, but with BatchNorm statistics of this batch.
    model = trained.model.clone(norm_momentum=0.0, norm_group_size=0, dropout=0.0, stochastic_depth=0.0)
    params = model.lazy_init(key, jax.ShapeDtypeStruct(batch.shape, batch.dtype), train=False)["params"]
    _, updated = model.apply({"params": params}, batch, train=True, mutable=["batch_stats"])
    variables = {"params": params, "batch_stats": updated.get("batch_stats", {})}
    return dataclasses.replace(trained, variables=parallel.place(variables, parallel.replicated(trained.mesh)))


def _read_features(
    name: str, trained: TrainedModel, dataset: str, subsets: Mapping[str, Subset], reporter: Reporter
) -> Iterator[LabeledFeatures]:
    """Yield the features of the training, validation and test examples."""

    def apply(variables: dict, images: jax.Array) -> jax.Array:
        outputs = trained.model.apply(variables, trained.preprocess(images), train=False, return_features=True)
        return outputs[1]["pooled"]

    batch_size = settings.microbatch_size(trained.config)
    compute_features = nearest_neighbors.make_compute_features(apply, batch_size, trained.mesh)
    for what, subset in subsets.items():
        reporter.update(f"{name}: features of the {what} examples")
        features = compute_features(trained.variables, _open(trained, dataset, subset, reporter))
        assert features is not None  # Nothing interrupts it.
        yield features


def _open(trained: TrainedModel, name: str, subset: Subset, reporter: Reporter) -> EvaluationData:
    """Open examples as the model takes them; those of another dataset are resized."""
    own = trained.config.dataset
    subset = with_channels_of(trained, subset)
    if name == own.name:
        return open_evaluation_data(own, subset, reporter)
    return feed_config.external_examples(own, subset, feed_config.num_workers(own), reporter)


def _score(
    name: str, fraction: float, train: LabeledFeatures, validation: LabeledFeatures, test: LabeledFeatures
) -> ProbeResult:
    fitted = linear_probe.fit(train, validation)
    correct = fitted.ranking(test.values) == test.labels[:, None]
    neighbors = nearest_neighbors.classify(train, test)
    return ProbeResult(
        features=name,
        fraction=fraction,
        labels=len(train.labels),
        strength=fitted.strength,
        validation_top1=fitted.validation_top1,
        top1=_share(correct[:, 0]),
        top5=_share(correct[:, :5].any(axis=-1)) if correct.shape[1] > 5 else None,
        knn=_share(neighbors == test.labels),
    )


def _share(is_correct: np.ndarray) -> Score:
    return Score(float(is_correct.mean()), wilson_interval(int(is_correct.sum()), len(is_correct)))


def format_results(results: Sequence[ProbeResult]) -> str:
    """Format a table of the results."""
    rows = [
        (
            result.features,
            f"{100 * result.fraction:.3g}% ({result.labels:,})",
            _format(result.top1),
            "-" if result.top5 is None else _format(result.top5),
            _format(result.knn),
        )
        for result in results
    ]
    return table(rows, header=("features", "labels", "linear top-1", "top-5", "kNN top-1"))


def _format(score: Score) -> str:
    low, high = score.interval
    return f"{score.value:.2%} ({100 * low:.2f} to {100 * high:.2f})"
