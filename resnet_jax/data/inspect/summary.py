"""An inspection as text for the terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from resnet_jax.data.inspect import contact_sheet
from resnet_jax.data.inspect.inspection import Inspection
from resnet_jax.data.inspect.statistics import Repeated, Size
from resnet_jax.terminal import table

WIDTH = 100  # characters per line of text; file names may be longer
NO_WORD_BREAKS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
BAR_WIDTH = 30  # characters of the longest bar, which stands for the largest class
MAX_CLASSES = 30  # with more classes, only the largest and the smallest are shown
CLASSES_PER_END = 10
MAX_FILES_LISTED = 20
MAX_COPIES_LISTED = 5  # of an image


def report(inspection: Inspection, sheet: str | None) -> str:
    """Return all results of an inspection, with the verdict at the end; `sheet` is the path of the contact sheet."""
    sections = {
        inspection.dataset: _splits(inspection),
        "Classes": _classes(inspection),
        "Sizes, height x width": _sizes(inspection),
        "Channels": _channels(inspection),
        "Memory": _memory(inspection),
        "Unreadable": _list([f"{name}: {reason}" for name, reason in inspection.unreadable.items()]),
        "Ignored": _list(inspection.ignored),
        "Repeated": _list([_repeated(image) for image in inspection.repeated]),
        "Contact sheet": _contact_sheet(inspection, sheet),
        "Verdict": _verdict(inspection),
    }
    return "\n\n".join(f"{heading}\n{textwrap.indent(text, '  ')}" for heading, text in sections.items())


def _splits(inspection: Inspection) -> str:
    rows = [
        (name, split.examples, split.unreadable, sum(map(bool, split.classes.values())))
        for name, split in inspection.splits.items()
    ]
    splits = table(rows, header=("split", "images", "unreadable", "classes"))
    if not inspection.parts:
        return splits
    used = [f"{selected.examples:,} for {purpose} ({selected.split})" for purpose, selected in inspection.parts.items()]
    return f"{splits}\n\n{_wrap('A run uses ' + ', '.join(used) + '.')}"


def _classes(inspection: Inspection) -> str:
    counts = {name: split.classes for name, split in inspection.splits.items()}
    first = "train" if "train" in counts else next(iter(counts))
    first_counts = counts[first]
    names = list(first_counts)
    only_ends = len(names) > MAX_CLASSES
    if only_ends:
        names.sort(key=lambda name: -first_counts[name])
        names = names[:CLASSES_PER_END] + names[-CLASSES_PER_END:]
    scale = BAR_WIDTH / max(1, *first_counts.values())
    rows = [
        (name, *(classes[name] for classes in counts.values()), "█" * round(scale * first_counts[name]))
        for name in names
    ]
    text = table(rows, header=("class", *counts, ""))
    if only_ends:
        text = (
            f"The {CLASSES_PER_END} largest and the {CLASSES_PER_END} smallest classes in {first}, "
            f"of {len(first_counts):,}:\n\n{text}"
        )
    return text


def _sizes(inspection: Inspection) -> str:
    rows = [
        (name, _size(split.smallest), _size(split.median), _size(split.largest), split.sizes)
        for name, split in inspection.splits.items()
    ]
    count = sum(split.examples - split.unreadable for split in inspection.splits.values())
    smaller = [
        f"Enlarged because the short side has fewer than {side} pixels: {number:,} of {count:,} ({number / count:.1%})"
        for side, number in inspection.smaller.items()
        if count
    ]
    sizes = table(rows, header=("split", "smallest", "median", "largest", "distinct sizes"))
    return "\n\n".join([sizes, *smaller])


def _channels(inspection: Inspection) -> str:
    if inspection.mean is None or inspection.std is None:
        return "nothing to measure"
    mean, std = (tuple(round(value, 4) for value in values) for values in (inspection.mean, inspection.std))
    return f"--config.dataset.mean='{mean}' --config.dataset.std='{std}'"


def _memory(inspection: Inspection) -> str:
    memory = inspection.memory
    if memory is None:
        return "unknown, because the run would not start"
    if memory.feed == "resident":
        return _wrap(f"{memory.why} Training images take {_megabytes(memory.device_bytes)} on each device.")
    where = f"shared memory, filled by {memory.num_workers} workers" if memory.num_workers else "the host's memory"
    return _wrap(
        f"{memory.why} A batch takes {_megabytes(memory.device_bytes)} on each device, and prefetched batches take "
        f"{_megabytes(memory.host_bytes)} of {where}."
    )


def _contact_sheet(inspection: Inspection, path: str | None) -> str:
    if path is None:
        return "none"
    classes = len(next(iter(inspection.splits.values())).classes)
    some_classes = f"the first {contact_sheet.MAX_CLASSES} of {classes:,} classes"
    which = some_classes if classes > contact_sheet.MAX_CLASSES else "each class"
    return f"{path}, with up to {contact_sheet.MAX_IMAGES} training images of {which}"


def _verdict(inspection: Inspection) -> str:
    if inspection.would_spoil:
        lines = ["Would spoil a run:", *map(_bullet, inspection.would_spoil)]
    else:
        lines = ["Nothing here would spoil a run."]
    if inspection.worth_knowing:
        lines += ["", "Worth knowing:", *map(_bullet, inspection.worth_knowing)]
    return "\n".join(lines)


def _repeated(image: Repeated) -> str:
    """List the names of the copies of an image, with their labels if these differ."""
    names = image.names
    if len(set(image.labels)) > 1:
        names = [f"{name} ({label})" for name, label in zip(names, image.labels, strict=True)]
    more = f" and {len(names) - MAX_COPIES_LISTED:,} more" if len(names) > MAX_COPIES_LISTED else ""
    return " = ".join(names[:MAX_COPIES_LISTED]) + more


def _list(lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - MAX_FILES_LISTED:,} more"] if len(lines) > MAX_FILES_LISTED else []
    return "\n".join([*lines[:MAX_FILES_LISTED], *more]) or "none"


def _size(size: Size | None) -> str:
    return f"{size[0]:,} x {size[1]:,}" if size else "-"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, **NO_WORD_BREAKS)


def _bullet(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ", **NO_WORD_BREAKS)
