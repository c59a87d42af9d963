"""All that is known of a data set after every picture was looked at."""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from resnet_jax.data.inspect import findings, statistics
from resnet_jax.data.inspect.plan import Memory, Plan
from resnet_jax.data.inspect.scan import Looked
from resnet_jax.data.inspect.statistics import Repeated, SplitFigures
from resnet_jax.data.sources import Source


@dataclasses.dataclass(frozen=True)
class Part:
    """What a run trains or is scored on: a split as the settings name it, and how many examples it has."""

    split: str
    examples: int


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The figures of a data set, and what they mean for a run. The names are the keys of `inspect --format=json`.

    Attributes:
      dataset: its name.
      splits: figures of each base split.
      parts: of the run: "training", and "validation" and "test" if there are any.
      image_size, eval_resize, eval_crop: pixels to which pictures are resized; None: they stay as they are.
      smaller: how many pictures have a short side of less than so many pixels, and are enlarged to it.
      mean, std: a channel, over all pixels of the training split, in [0, 1]; None where there are none.
      memory: None where there is nothing to train on.
      unreadable: why a picture cannot be read, by its name.
      ignored: paths of files that are no pictures by their names, or lie in no class.
      repeated: pictures that are there more than once.
      would_spoil, worth_knowing: sentences; the first are errors in the data or the settings.
    """

    dataset: str
    splits: dict[str, SplitFigures]
    parts: dict[str, Part]
    image_size: int | None
    eval_resize: int | None
    eval_crop: int | None
    smaller: dict[int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    memory: Memory | None
    unreadable: dict[str, str]
    ignored: list[str]
    repeated: list[Repeated]
    would_spoil: list[str]
    worth_knowing: list[str]


def inspect(config: ConfigDict, sources: Mapping[str, Source], looked: Looked, plan: Plan) -> Inspection:
    """Puts together what was seen of `sources` and what the run of `config` would do with them."""
    splits, groups = statistics.of_splits(looked), statistics.repeated(looked)
    dataset = plan.dataset
    mean, std = statistics.channel_statistics(looked, plan.train) or (None, None)
    found = findings.findings(config.batch_size, sources, looked, plan, groups)
    return Inspection(
        dataset=dataset.name,
        splits=splits,
        parts={part: Part(plan.split(part), len(positions)) for part, positions in plan.parts.items()},
        image_size=dataset.image_size,
        eval_resize=dataset.eval_resize,
        eval_crop=dataset.eval_crop,
        smaller=statistics.count_smaller(looked, sorted({dataset.image_size, dataset.eval_crop} - {None})),
        mean=mean,
        std=std,
        memory=plan.memory,
        unreadable={looked.selection.name(at): why for at, why in looked.unreadable.items()},
        ignored=[path for source in sources.values() for path in getattr(source, "ignored", ())],
        repeated=[statistics.describe_repeated(looked, group) for group in groups],
        would_spoil=[finding.sentence for finding in found if finding.spoils],
        worth_knowing=[finding.sentence for finding in found if not finding.spoils],
    )
