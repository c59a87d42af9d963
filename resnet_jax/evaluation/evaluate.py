"""Evaluation: score every readable example exactly once, in batches of one shape, on all devices.

Images that cannot be read are left out of the metrics and counted.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax import config as settings
from resnet_jax.data import class_matching, feed_config
from resnet_jax.data.dataset import VALIDATION, common_classes, examples_of_run, open_evaluation_data, select_split
from resnet_jax.data.feed import EvaluationData
from resnet_jax.data.host_batches import NO_POSITION
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import Source, open_sources
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation import metrics, multi_label
from resnet_jax.evaluation.metrics import ExampleMetrics, check_any_readable
from resnet_jax.evaluation.multi_label import MultiLabelExamples, MultiLabelReport
from resnet_jax.evaluation.tta import AUGMENTATIONS, make_apply
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel

MAX_CLASSES_LISTED = 10

# --- The compiled evaluation ------------------------------------------------------------------------------------------


class Evaluate(Protocol):
    """Function that scores examples; see `make_evaluate`."""

    def __call__(
        self,
        variables: dict,
        examples: EvaluationData,
        interrupted: Callable[[], object] = lambda: False,
        reporter: Reporter | None = None,
    ) -> ExampleMetrics | MultiLabelExamples | None:
        """Score all examples that can be read.

        Args:
          variables: variables of the model, replicated over the mesh.
          examples: the examples.
          interrupted: called after each batch; if it returns a true value, the evaluation is abandoned.
          reporter: shows the progress; None: no progress is shown.

        Returns:
          The metrics of each example that can be read, in the order of the examples, as host arrays;
          `MultiLabelExamples` if the function was made with `label_sets`. None if the evaluation was abandoned.

        Raises:
          UserError: if more images than `dataset.max_unreadable` cannot be read.
        """


def make_evaluate(
    model: nn.Module,
    preprocess: Preprocess,
    batch_size: int,
    mesh: Mesh,
    *,
    tta: str | None = None,
    label_map: Sequence[int] | None = None,
    label_sets: np.ndarray | None = None,
    keep_log_probabilities: bool = False,
) -> Evaluate:
    """Return a function that scores examples.

    The model is compiled once per image shape, and then serves any variables and any examples.

    Args:
      model: the model.
      preprocess: the preprocessing of its images.
      batch_size: images per batch over all devices. With test-time augmentation, each view of an example is an image.
        The number of examples is rounded up to a multiple of the number of devices.
      mesh: the devices.
      tta: test-time augmentation, see `tta.make_apply`.
      label_map: the model's label of each class, indexed by the label of this class in the examples; None: both are the
        same.
      label_sets: bool [sets, classes], for any number of labels per image: the combinations of the model's classes, by
        the labels of the examples. None: one label per image.
      keep_log_probabilities: whether the result includes the log-probabilities of all classes.
    """
    num_views = len(AUGMENTATIONS[tta]) if tta else 1
    batch_size = math.ceil(batch_size / num_views / mesh.size) * mesh.size
    local_rows = parallel.local_rows(mesh, batch_size)
    apply = make_apply(model, tta)

    def score_batch(
        variables: dict, images: jax.Array, labels: jax.Array, positions: jax.Array
    ) -> ExampleMetrics | MultiLabelExamples:
        logits = apply(variables, preprocess(images))
        if label_sets is not None:
            return multi_label.example_metrics(logits, jnp.asarray(label_sets), labels, positions)
        return metrics.example_metrics(logits, labels, positions, keep_log_probabilities)

    # The results are replicated, so that every process can read all of them.
    score_batch = parallel.jit(score_batch, mesh)

    def evaluate(
        variables: dict,
        examples: EvaluationData,
        interrupted: Callable[[], object] = lambda: False,
        reporter: Reporter | None = None,
    ) -> ExampleMetrics | MultiLabelExamples | None:
        show_progress = reporter.counter("scoring examples") if reporter else None
        pace = parallel.pace_of_independent_calls(mesh)
        batches = []
        for images, info in examples.batches(batch_size, local_rows):
            labels = info.labels if label_map is None else _map_labels(info.labels, label_map)
            arrays = images, labels, info.positions.astype(np.int32)
            batches.append(score_batch(variables, *parallel.place_rows(arrays, mesh, batch_size)))
            pace(batches[-1])
            if show_progress:
                show_progress(min(len(batches) * batch_size, len(examples)), len(examples))
            if interrupted():
                return None
        results = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parallel.fetch(batches))
        positions = results.position[results.position != NO_POSITION]
        if not np.array_equal(np.sort(positions), np.arange(len(examples))):
            raise RuntimeError(
                f"the batches do not contain each of the {len(examples)} examples exactly once "
                f"(they contain {len(positions)} examples)"
            )
        readable = results.label != NO_LABEL  # False for padding, too
        return jax.tree.map(lambda array: array[readable], results)

    return evaluate


def _map_labels(labels: np.ndarray, label_map: Sequence[int]) -> np.ndarray:
    """Renumber labels, and keep `NO_LABEL`."""
    return np.where(labels == NO_LABEL, NO_LABEL, np.asarray(label_map, np.int32)[labels])


# --- Scoring a trained model on its own dataset, or on another dataset with classes of the same names ----------------


def score_run(
    trained: TrainedModel, sources: Mapping[str, Source], split: str, reporter: Reporter, tta: str | None = None
) -> dict:
    """Return the mean metrics of a trained model on a split such as "test".

    The keys are the fields of `MeanMetrics` or, for any number of labels per image, of `MultiLabelMeans`.

    Args:
      trained: the trained model.
      sources: the splits that the dataset provides, by name.
      split: the split to score.
      reporter: shows the progress, and counts the images that cannot be read.
      tta: test-time augmentation, see `tta.make_apply`.

    Raises:
      UserError: as `open_examples` and `score` do.
    """
    common_classes(sources)
    subset = select_split(trained.config.dataset, sources, split, reporter)
    examples = open_examples(trained, subset, reporter)
    if subset.label_sets is not None:
        return dataclasses.asdict(score_multi_label(trained, examples, subset, reporter, tta).means)
    results = score(trained, examples, subset.classes, reporter, tta)
    return dataclasses.asdict(metrics.summarize(results, len(subset)))


def open_examples(trained: TrainedModel, subset: Subset, reporter: Reporter) -> EvaluationData:
    """Open examples of the dataset that a model was trained on, in the form that the model takes.

    Args:
      trained: the trained model.
      subset: the examples; the model must know their classes, by name.
      reporter: shows the progress of reading, and counts the images that cannot be read.

    Raises:
      UserError: if the model does not know a class of the examples, or does not take their number of channels.
    """
    return open_evaluation_data(trained.config.dataset, _fit(trained, subset), reporter)


def open_external_examples(trained: TrainedModel, subset: Subset, reporter: Reporter | None) -> StreamedExamples:
    """Open examples of any dataset. Their images are resized to the size that the model sees in evaluation.

    Args:
      trained, subset: see `open_examples`.
      reporter: see `StreamedExamples`.

    Raises:
      UserError: as `open_examples` does.
    """
    dataset = trained.config.dataset
    return feed_config.external_examples(dataset, _fit(trained, subset), feed_config.num_workers(dataset), reporter)


def _fit(trained: TrainedModel, subset: Subset) -> Subset:
    """Return the examples with as many channels as the model takes; raises `UserError` if they do not fit the model."""
    # A model that was pre-trained without labels has no classes to check.
    unknown = class_matching.missing(subset.classes, trained.classes) if trained.classes else []
    if unknown:
        names = ", ".join(unknown[:MAX_CLASSES_LISTED])
        raise UserError(
            f"the data has classes that this model does not know ({names}). The model knows "
            f"{_list_classes(trained.classes)}; the data has {_list_classes(subset.classes)}. Choose other data or "
            "another run."
        )
    return with_channels_of(trained, subset)


def with_channels_of(trained: TrainedModel, subset: Subset) -> Subset:
    """Return the examples with as many channels as the model takes; raises `UserError` if that is impossible."""
    if subset.channels > len(trained.preprocess.mean):
        subset = subset.as_grayscale()
    trained.preprocess.check(subset.image_shape[-1])
    return subset


def score(
    trained: TrainedModel,
    examples: EvaluationData,
    classes: Sequence[str],
    reporter: Reporter,
    tta: str | None = None,
    keep_log_probabilities: bool = False,
) -> ExampleMetrics:
    """Score every readable example exactly once, and return the metrics of each.

    The labels in the result are those of the model, even if the examples number their classes differently.

    Args:
      trained: the trained model.
      examples: examples from `open_examples`.
      classes: the names of the classes, by the labels of the examples.
      reporter: shows the progress of scoring.
      tta: test-time augmentation, see `tta.make_apply`.
      keep_log_probabilities: whether the result includes the log-probabilities of all classes.

    Raises:
      UserError: if more images than `dataset.max_unreadable` cannot be read.
    """
    evaluate = make_evaluate(
        trained.model,
        trained.preprocess,
        settings.microbatch_size(trained.config),
        trained.mesh,
        tta=tta,
        label_map=class_matching.match(classes, trained.classes),
        keep_log_probabilities=keep_log_probabilities,
    )
    # The result is None only after an interruption, and nothing interrupts this evaluation.
    return evaluate(trained.variables, examples, reporter=reporter)  # type: ignore[return-value]


def score_own_validation(
    trained: TrainedModel, reporter: Reporter, data_dir: str | None = None
) -> tuple[ExampleMetrics, Subset, np.ndarray]:
    """Score a model on the examples on which it was validated, which it was not trained on.

    Args:
      trained: the model of a run, for one label per image.
      reporter: shows the progress, and counts the images that cannot be read.
      data_dir: where the data is; None: where it was in training.

    Returns:
      The metrics of each example, with the log-probabilities of all classes; the subset; and the position of each
      example in it, int [n].

    Raises:
      UserError: if the run has no validation examples, or its data cannot be opened.
    """
    trained.require_head()
    dataset = trained.config.dataset
    sources = open_sources(dataset.name, data_dir or dataset.data_dir)
    common_classes(sources)
    reporter.max_unreadable = dataset.max_unreadable
    subset = examples_of_run(dataset, sources, VALIDATION, reporter)
    examples = open_examples(trained, subset, reporter)
    results = score(trained, examples, subset.classes, reporter, keep_log_probabilities=True)
    check_any_readable(len(results.position), len(examples))
    return results, subset, examples.subset_positions[results.position]


def score_multi_label(
    trained: TrainedModel, examples: EvaluationData, subset: Subset, reporter: Reporter, tta: str | None = None
) -> MultiLabelReport:
    """Score every readable example with any number of labels once, with the thresholds of the trained model.

    Args:
      trained: the trained model.
      examples: examples from `open_examples`.
      subset: the subset from which they were opened.
      reporter, tta: see `score`.

    Raises:
      UserError: if more images than `dataset.max_unreadable` cannot be read, or if none can.
    """
    results, label_sets = multi_label_results(trained, examples, subset, reporter, tta)
    return multi_label.report(results, label_sets, trained.classes, len(subset), trained.thresholds)


def multi_label_results(
    trained: TrainedModel, examples: EvaluationData, subset: Subset, reporter: Reporter, tta: str | None = None
) -> tuple[MultiLabelExamples, np.ndarray]:
    """Return the metrics of each example, and the combinations of the model's classes; see `score_multi_label`."""
    assert subset.label_sets is not None
    label_sets = np.zeros((len(subset.label_sets), len(trained.classes)), bool)
    label_sets[:, class_matching.match(subset.classes, trained.classes)] = subset.label_sets
    batch_size = settings.microbatch_size(trained.config)
    evaluate = make_evaluate(
        trained.model, trained.preprocess, batch_size, trained.mesh, tta=tta, label_sets=label_sets
    )
    # The result is None only after an interruption, and nothing interrupts this evaluation.
    return evaluate(trained.variables, examples, reporter=reporter), label_sets  # type: ignore[return-value]


def _list_classes(classes: Sequence[str]) -> str:
    more = ", ..." if len(classes) > MAX_CLASSES_LISTED else ""
    return f"{len(classes):,} classes ({', '.join(classes[:MAX_CLASSES_LISTED])}{more})"
