"""An inspection as text for people."""

import textwrap
from collections.abc import Sequence

from resnet_jax.data.inspect import contact_sheet
from resnet_jax.data.inspect.inspection import Inspection
from resnet_jax.data.inspect.statistics import Repeated, Size
from resnet_jax.terminal import table

WIDTH = 100  # characters of a line of sentences; names of files may be longer
UNBROKEN = {"break_long_words": False, "break_on_hyphens": False}
BAR = 30  # characters of the longest bar
MOST_CLASSES = 30  # of more, only the ends are shown
ENDS = 10
MOST_LISTED = 20  # of files
MOST_COPIES = 5  # of a picture


def report(inspection: Inspection, sheet: str | None) -> str:
    """All that was found, with the verdict at the end; `sheet` is the path of the contact sheet."""
    sections = {
        inspection.dataset: _splits(inspection),
        "Classes": _classes(inspection),
        "Sizes, height x width": _sizes(inspection),
        "Channels": _channels(inspection),
        "Memory": _memory(inspection),
        "Unreadable": _list([f"{name}: {why}" for name, why in inspection.unreadable.items()]),
        "Ignored": _list(inspection.ignored),
        "Repeated": _list([_repeated(picture) for picture in inspection.repeated]),
        "Contact sheet": _contact_sheet(inspection, sheet),
        "Verdict": _verdict(inspection),
    }
    return "\n\n".join(f"{heading}\n{textwrap.indent(text, '  ')}" for heading, text in sections.items())


def _splits(inspection: Inspection) -> str:
    rows = [
        (split, of.examples, of.unreadable, sum(map(bool, of.classes.values())))
        for split, of in inspection.splits.items()
    ]
    parts = [f"{of.examples:,} for {part} ({of.split})" for part, of in inspection.parts.items()]
    splits = table(rows, header=("split", "pictures", "unreadable", "classes"))
    return f"{splits}\n\n{_wrap('A run takes ' + ', '.join(parts) + '.')}" if parts else splits


def _classes(inspection: Inspection) -> str:
    counts = {split: of.classes for split, of in inspection.splits.items()}
    first = "train" if "train" in counts else next(iter(counts))
    of_first = counts[first]
    names = list(of_first)
    only_ends = len(names) > MOST_CLASSES
    if only_ends:
        names.sort(key=lambda name: -of_first[name])
        names = names[:ENDS] + names[-ENDS:]
    bar = BAR / max(1, *of_first.values())
    rows = [(name, *(of[name] for of in counts.values()), "█" * round(bar * of_first[name])) for name in names]
    text = table(rows, header=("class", *counts, ""))
    if only_ends:
        text = f"The {ENDS} largest and the {ENDS} smallest in {first}, of {len(of_first):,}:\n\n{text}"
    return text


def _sizes(inspection: Inspection) -> str:
    rows = [
        (split, _size(of.smallest), _size(of.median), _size(of.largest), of.sizes)
        for split, of in inspection.splits.items()
    ]
    count = sum(of.examples - of.unreadable for of in inspection.splits.values())
    smaller = [
        f"Enlarged, for the short side has less than {side} pixels: {number:,} of {count:,} ({number / count:.1%})"
        for side, number in inspection.smaller.items()
        if count
    ]
    sizes = table(rows, header=("split", "smallest", "median", "largest", "different"))
    return "\n\n".join([sizes, *smaller])


def _channels(inspection: Inspection) -> str:
    if inspection.mean is None:
        return "nothing to measure"
    mean, std = (tuple(round(value, 4) for value in values) for values in (inspection.mean, inspection.std))
    return f"--config.dataset.mean='{mean}' --config.dataset.std='{std}'"


def _memory(inspection: Inspection) -> str:
    memory = inspection.memory
    if memory is None:
        return "nothing to train on"
    if memory.feed == "resident":
        return _wrap(f"{memory.why} Those to train on take {_megabytes(memory.device_bytes)} on each device.")
    place = f"shared memory, filled by {memory.num_workers} workers" if memory.num_workers else "the host's memory"
    return _wrap(
        f"{memory.why} A batch takes {_megabytes(memory.device_bytes)} on each device, and batches that wait for their "
        f"turn take {_megabytes(memory.host_bytes)} of {place}."
    )


def _contact_sheet(inspection: Inspection, path: str | None) -> str:
    if path is None:
        return "none"
    classes = len(next(iter(inspection.splits.values())).classes)
    some = f"the first {contact_sheet.MOST_CLASSES} of {classes:,} classes"
    which = some if classes > contact_sheet.MOST_CLASSES else "each class"
    return f"{path}, with up to {contact_sheet.MOST_PICTURES} training pictures of {which}"


def _verdict(inspection: Inspection) -> str:
    spoilers, notes = inspection.would_spoil, inspection.worth_knowing
    told = ["Would spoil a run:", *map(_point, spoilers)] if spoilers else ["Nothing here would spoil a run."]
    if notes:
        told += ["", "Worth knowing:", *map(_point, notes)]
    return "\n".join(told)


def _repeated(picture: Repeated) -> str:
    """The names of the copies, with their labels where these differ."""
    names = picture.names
    if len(set(picture.labels)) > 1:
        names = [f"{name} ({label})" for name, label in zip(names, picture.labels, strict=True)]
    more = f" and {len(names) - MOST_COPIES:,} more" if len(names) > MOST_COPIES else ""
    return " = ".join(names[:MOST_COPIES]) + more


def _list(lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - MOST_LISTED:,} more"] if len(lines) > MOST_LISTED else []
    return "\n".join([*lines[:MOST_LISTED], *more]) or "none"


def _size(size: Size | None) -> str:
    return f"{size[0]:,} x {size[1]:,}" if size else "-"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, **UNBROKEN)


def _point(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ", **UNBROKEN)
