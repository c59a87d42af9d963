"""What of a data set would spoil a run, and what is worth knowing."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from resnet_jax.data.feed import batch_size_error
from resnet_jax.data.folder import FolderSource
from resnet_jax.data.inspect.plan import Plan
from resnet_jax.data.inspect.scan import Looked
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import NO_LABEL

# Pictures that it was trained on raise a score by no more than their share. Large public sets hold a few, and it cannot
# be helped; among fewer than a thousand examples one is too many.
MOST_LEAKED = 0.001
MOST_CONTRADICTORY = 0.01  # of the training examples: wrong labels, which all real sets have, do harm in numbers only
SCORED = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class Finding:
    """A sentence, and whether what it says would stop a run or make its figures worthless."""

    spoils: bool
    sentence: str


def findings(
    batch_size: int, sources: Mapping[str, Source], looked: Looked, plan: Plan, repeated: Sequence[np.ndarray]
) -> list[Finding]:
    """All that was found, what spoils a run first.

    Args:
      batch_size: of the run, in examples.
      sources, looked, plan: the data set, what was seen of it, and what the run would do with it.
      repeated: positions of pictures that look the same, a group each.
    """
    found = [
        *(Finding(True, problem) for problem in plan.problems),
        *_too_few(batch_size, plan),
        *_unreadable(looked, plan),
        *_shapes(looked, plan),
        *_labels(looked, plan),
        *_empty_classes(sources, looked),
        *_uneven_classes(looked, plan),
        *_leaks(looked, plan, repeated),
        *_contradictions(looked, plan, repeated),
        *_copies(repeated),
        *_ignored(sources),
    ]
    return sorted(found, key=lambda finding: not finding.spoils)


def _too_few(batch_size: int, plan: Plan) -> Iterator[Finding]:
    count = len(plan.parts.get("training", ()))
    if 0 < count < batch_size:
        yield Finding(True, batch_size_error(batch_size, count))


def _unreadable(looked: Looked, plan: Plan) -> Iterator[Finding]:
    count, allowed = len(looked.unreadable), plan.dataset.max_unreadable
    if count:
        limit = f"where dataset.max_unreadable allows {allowed:,}"
        yield Finding(count > allowed, f"pictures that cannot be read: {count:,}, {limit}")


def _shapes(looked: Looked, plan: Plan) -> Iterator[Finding]:
    """Only a stream resizes each for itself; else all must have one shape, of which a run first looks at some only."""
    used = np.concatenate([np.arange(0), *plan.parts.values()])
    used = used[looked.readable[used]]
    shapes = looked.records[used][["height", "width", "channels"]]
    resized = plan.dataset.feed == "streaming" and plan.dataset.image_size
    others = np.flatnonzero(shapes != shapes[0]) if len(used) and not resized else ()
    if len(others):
        named = [f"{looked.selection.name(used[i])} {list(shapes[i].item())}" for i in (0, others[0])]
        yield Finding(
            True,
            f"pictures have several shapes, such as {' and '.join(named)}: set dataset.image_size and "
            "dataset.feed=streaming to have all resized",
        )


def _labels(looked: Looked, plan: Plan) -> Iterator[Finding]:
    """Labels outside the classes stop a run. Some public sets have a split without labels: it harms if it is used."""
    labels, classes = looked.records["label"], len(looked.selection.classes)
    wrong = looked.readable & ((labels < 0) | (labels >= classes))
    for part, positions in plan.parts.items():
        where = positions[wrong[positions]]
        if len(where):
            share = f"{len(where):,} of the {len(positions):,} {part} examples"
            first = f"{looked.selection.name(where[0])} with {labels[where[0]]}"
            yield Finding(True, f"labels that are none of the {classes:,} classes: {share}, such as {first}")
    unused = np.setdiff1d(np.flatnonzero(wrong), np.concatenate([np.arange(0), *plan.parts.values()]))
    for split in sorted({looked.split_of(position) for position in unused}):
        yield Finding(False, f"{split} has examples without a label; no part of the run uses them")


def _empty_classes(sources: Mapping[str, Source], looked: Looked) -> Iterator[Finding]:
    """In one's own folder it is a mistake, in a public data set a peculiarity."""
    classes = looked.selection.classes
    there = np.unique(looked.records["label"][looked.readable])
    empty = [name for label, name in enumerate(classes) if label not in there]
    if empty:
        is_folder = any(isinstance(source, FolderSource) for source in sources.values())
        yield Finding(is_folder, f"classes without any picture: {_listed(empty)}")


def _uneven_classes(looked: Looked, plan: Plan) -> Iterator[Finding]:
    classes = dict(enumerate(looked.selection.classes))
    readable = {part: positions[looked.readable[positions]] for part, positions in plan.parts.items()}
    labels = {part: looked.records["label"][positions] for part, positions in readable.items()}
    present = {part: {classes[label] for label in np.unique(of) if label in classes} for part, of in labels.items()}
    if "training" not in present:
        return
    trained = present.pop("training")
    for part, names in present.items():
        split, lacking, untrained = plan.split(part), sorted(trained - names), sorted(names - trained)
        if lacking:
            yield Finding(False, f"classes that {split} lacks: {_listed(lacking)}")
        if untrained:
            yield Finding(True, f"classes of {split} that training lacks, and cannot learn: {_listed(untrained)}")


def _leaks(looked: Looked, plan: Plan, repeated: Sequence[np.ndarray]) -> Iterator[Finding]:
    training = plan.parts.get("training", ())
    trained = np.isin(np.arange(len(looked.records)), training)
    known = [position for group in repeated if trained[group].any() for position in group]
    for part in SCORED:
        positions = plan.parts.get(part, ())
        leaked = len(np.intersect1d(positions, known))
        if leaked:
            share = leaked / len(positions)
            counts = f"{leaked:,} of the {len(positions):,} {part} examples ({share:.2%})"
            yield Finding(share > MOST_LEAKED, f"leakage: training has {counts}, whose score would flatter")


def _contradictions(looked: Looked, plan: Plan, repeated: Sequence[np.ndarray]) -> Iterator[Finding]:
    training = plan.parts.get("training", ())
    labels = looked.records["label"]
    disputed = [group for group in repeated if len(set(labels[group]) - {NO_LABEL}) > 1]
    count = len(np.intersect1d(training, [position for group in disputed for position in group]))
    if count:
        share = count / len(training)
        counts = f"{count:,} of the {len(training):,} training examples ({share:.2%})"
        yield Finding(share > MOST_CONTRADICTORY, f"the same picture under several labels: {counts}")


def _copies(repeated: Sequence[np.ndarray]) -> Iterator[Finding]:
    copies = sum(len(group) - 1 for group in repeated)
    if copies:
        yield Finding(False, f"pictures that repeat others, pixel by pixel: {copies:,}")


def _ignored(sources: Mapping[str, Source]) -> Iterator[Finding]:
    count = sum(len(getattr(source, "ignored", ())) for source in sources.values())
    if count:
        yield Finding(False, f"files that are ignored, being no pictures by their names, or in no class: {count:,}")


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
