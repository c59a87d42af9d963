"""Findings about a dataset: problems that would stop or spoil a run, and facts worth knowing."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from resnet_jax.data import bit_depth as bit_depths
from resnet_jax.data import class_matching, unlabeled_folder
from resnet_jax.data.class_checks import single_class_error
from resnet_jax.data.decode import MAX_BIT_DEPTH
from resnet_jax.data.feed import batch_size_error
from resnet_jax.data.folder import FolderSource, count_files
from resnet_jax.data.inspect.plan import Plan
from resnet_jax.data.inspect.scan import ScannedDataset
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import NO_LABEL
from resnet_jax.terminal import enumerate_names

# Acceptable fraction of scored images that are training images too. They raise a score by at most this fraction. Large
# public datasets contain a few such images, which cannot be avoided. In a split of fewer than a thousand examples, a
# single one is too many.
MAX_LEAKED = 0.001
# Acceptable fraction of training examples whose image occurs with several labels. Wrong labels are harmful only in
# large numbers, and all real datasets have some.
MAX_CONTRADICTORY = 0.01
SCORED = ("validation", "test")  # purposes of splits
MAX_NAMES_LISTED = 10


@dataclasses.dataclass(frozen=True)
class Finding:
    """A sentence, and whether it describes something that would stop a run or invalidate its metrics."""

    spoils: bool
    sentence: str


def findings(
    batch_size: int, sources: Mapping[str, Source], scanned: ScannedDataset, plan: Plan, repeated: Sequence[np.ndarray]
) -> list[Finding]:
    """Return all findings, those that spoil a run first.

    Args:
      batch_size: examples per step.
      sources: the base splits.
      scanned: the scan of these splits.
      plan: what a run would do with the dataset.
      repeated: positions of identical images, in groups.
    """
    all_findings = [
        *(Finding(True, problem) for problem in plan.problems),
        *_too_few(batch_size, plan),
        *_unreadable(scanned, plan),
        *_shapes(scanned, plan),
        *_labels(scanned, plan),
        *_single_class(scanned, plan),
        *_empty_classes(sources, scanned),
        *_class_differences(scanned, plan),
        *_leaks(scanned, plan, repeated),
        *_contradictions(scanned, plan, repeated),
        *_copies(repeated),
        *_bit_depth(scanned),
        *_similar_names(scanned),
        *_ignored(sources),
    ]
    return sorted(all_findings, key=lambda finding: not finding.spoils)


def _too_few(batch_size: int, plan: Plan) -> Iterator[Finding]:
    count = len(plan.subsets.get("training", ()))
    if 0 < count < batch_size:
        yield Finding(True, batch_size_error(batch_size, count))


def _unreadable(scanned: ScannedDataset, plan: Plan) -> Iterator[Finding]:
    count, allowed = len(scanned.unreadable), plan.dataset.max_unreadable
    count_in_run = int(np.isin(plan.selected, list(scanned.unreadable)).sum())
    if count:
        yield Finding(
            count_in_run > allowed,
            f"Images that cannot be read: {count:,}, of which {count_in_run:,} are in the splits of the run. "
            f"dataset.max_unreadable allows {allowed:,}.",
        )


def _shapes(scanned: ScannedDataset, plan: Plan) -> Iterator[Finding]:
    """Check that all images have the same shape, unless a streaming feed resizes each of them.

    At its start, a run itself looks at the first images only.
    """
    used = _used_positions(plan)
    used = used[scanned.readable[used]]
    if not len(used) or (plan.dataset.feed == "streaming" and plan.dataset.image_size):
        return
    shapes = scanned.records[used][["height", "width", "channels"]]
    different = np.flatnonzero(shapes != shapes[0])
    if len(different):
        examples = [f"{scanned.subset.name(used[i])} {list(shapes[i].item())}" for i in (0, different[0])]
        yield Finding(
            True,
            f"Images have several shapes, such as {' and '.join(examples)}. Set dataset.image_size and "
            "dataset.feed=streaming to resize all images.",
        )


def _labels(scanned: ScannedDataset, plan: Plan) -> Iterator[Finding]:
    """Check that labels are classes.

    Some public datasets have a split without labels, which is harmful only if it is used.
    """
    labels, classes = scanned.records["label"], len(scanned.subset.classes)
    invalid = scanned.readable & ((labels < 0) | (labels >= classes))
    for purpose, positions in plan.subsets.items():
        where = positions[invalid[positions]]
        if len(where):
            first = f"{scanned.subset.name(where[0])} with {labels[where[0]]}"
            yield Finding(
                True,
                f"{len(where):,} of {len(positions):,} {purpose} examples have a label outside the {classes:,} "
                f"classes, such as {first}.",
            )
    unused = np.setdiff1d(np.flatnonzero(invalid), _used_positions(plan))
    for split in sorted({scanned.split_at(position) for position in unused}):
        yield Finding(False, f"{split} has examples without a label, which the run does not use.")


def _single_class(scanned: ScannedDataset, plan: Plan) -> Iterator[Finding]:
    training = plan.subsets.get("training", np.arange(0))
    labels = scanned.records["label"][training[scanned.readable[training]]]
    error = single_class_error(scanned.subset.classes, labels.tolist())
    if scanned.subset.classes == unlabeled_folder.CLASSES:
        yield Finding(False, "The images have no labels. They can be used for pre-training only.")
    elif error:
        yield Finding(True, error)


def _empty_classes(sources: Mapping[str, Source], scanned: ScannedDataset) -> Iterator[Finding]:
    """Find classes without images. In a user's folder they are a mistake; some public datasets have them by design."""
    classes = class_matching.distinct(scanned.subset.classes)
    present = np.unique(scanned.records["label"][scanned.readable])
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        is_folder = any(isinstance(source, FolderSource) for source in sources.values())
        yield Finding(is_folder, f"Classes without any image: {enumerate_names(empty, MAX_NAMES_LISTED)}.")


def _class_differences(scanned: ScannedDataset, plan: Plan) -> Iterator[Finding]:
    """Compare the classes of the scored splits with those of the training split."""
    classes = dict(enumerate(class_matching.distinct(scanned.subset.classes)))
    present = {}
    for purpose, positions in plan.subsets.items():
        labels = np.unique(scanned.records["label"][positions[scanned.readable[positions]]])
        present[purpose] = {classes[label] for label in labels if label in classes}
    if "training" not in present:
        return
    trained = present.pop("training")
    for purpose, names in present.items():
        split, lacking, untrained = plan.split(purpose), sorted(trained - names), sorted(names - trained)
        if lacking:
            yield Finding(False, f"Classes missing in {split}: {enumerate_names(lacking, MAX_NAMES_LISTED)}.")
        if untrained:
            yield Finding(
                True,
                f"Classes of {split} without training images, so the model cannot learn them: "
                f"{enumerate_names(untrained, MAX_NAMES_LISTED)}.",
            )


def _leaks(scanned: ScannedDataset, plan: Plan, repeated: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Find scored examples with the same image as a training example."""
    training = plan.subsets.get("training", ())
    is_training = np.isin(np.arange(len(scanned.records)), training)
    copied = [position for group in repeated if is_training[group].any() for position in group]
    for purpose in SCORED:
        positions = plan.subsets.get(purpose, ())
        leaked = len(np.intersect1d(positions, copied))
        if leaked:
            fraction = leaked / len(positions)
            yield Finding(
                fraction > MAX_LEAKED,
                f"Leakage: {leaked:,} of {len(positions):,} {purpose} examples ({fraction:.2%}) are also in the "
                "training data, so scores would be too high.",
            )


def _contradictions(scanned: ScannedDataset, plan: Plan, repeated: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Find training examples whose image occurs with several labels."""
    training = plan.subsets.get("training", ())
    labels = scanned.records["label"]
    contradictory = [group for group in repeated if len(set(labels[group]) - {NO_LABEL}) > 1]
    count = len(np.intersect1d(training, [position for group in contradictory for position in group]))
    if count:
        fraction = count / len(training)
        yield Finding(
            fraction > MAX_CONTRADICTORY,
            f"The same image has several labels: {count:,} of {len(training):,} training examples ({fraction:.2%}).",
        )


def _copies(repeated: Sequence[np.ndarray]) -> Iterator[Finding]:
    copies = sum(len(group) - 1 for group in repeated)
    if copies:
        yield Finding(False, f"Images that repeat another image pixel by pixel: {copies:,}.")


def _bit_depth(scanned: ScannedDataset) -> Iterator[Finding]:
    bit_depth = scanned.subset.bit_depth
    if bit_depth < MAX_BIT_DEPTH:
        yield Finding(False, bit_depths.describe(bit_depth))


def _similar_names(scanned: ScannedDataset) -> Iterator[Finding]:
    sentence = class_matching.similar(scanned.subset.classes)
    if sentence:
        yield Finding(False, sentence)


def _ignored(sources: Mapping[str, Source]) -> Iterator[Finding]:
    ignored = [path for source in sources.values() for path in getattr(source, "ignored", ())]
    if ignored:
        count = count_files(ignored)
        yield Finding(False, f"Ignored files that, by name or location, are not images of a class: {count}.")


def _used_positions(plan: Plan) -> np.ndarray:
    return np.concatenate([np.arange(0), *plan.subsets.values()])
