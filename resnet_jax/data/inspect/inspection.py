"""The result of an inspection: everything that a full scan of a dataset shows."""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from resnet_jax.data.inspect import findings, statistics
from resnet_jax.data.inspect.plan import Memory, Plan
from resnet_jax.data.inspect.scan import ScannedDataset
from resnet_jax.data.inspect.statistics import Repeated, SplitStatistics
from resnet_jax.data.sources import Source


@dataclasses.dataclass(frozen=True)
class SelectedSplit:
    """A split as the settings name it, and its number of examples."""

    split: str
    examples: int


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Statistics of a dataset, and what they mean for a run. The attributes are the keys of `inspect --format=json`.

    Attributes:
      dataset: name of the dataset.
      splits: statistics of each base split.
      parts: by purpose, the splits that the run uses: "training", and "validation" and "test" if there are any.
      image_size, eval_resize, eval_crop: sizes in pixels to which images are resized; None: they keep their size.
      smaller: for `image_size` and `eval_crop`, how many images have a smaller short side, and so are enlarged.
      mean, std: per channel, over all pixels of the training split, in [0, 1]; None if there are no pixels.
      memory: memory that the training images take; None if it is unknown, because the run would not start.
      unreadable: the names of the images that cannot be read, and why.
      ignored: paths of files that, by name or location, are not images of a class.
      repeated: images that occur more than once.
      would_spoil: sentences about what would stop the run or invalidate its metrics.
      worth_knowing: sentences about other findings.
    """

    dataset: str
    splits: dict[str, SplitStatistics]
    parts: dict[str, SelectedSplit]
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


def inspect(config: ConfigDict, sources: Mapping[str, Source], scanned: ScannedDataset, plan: Plan) -> Inspection:
    """Combine the scan of `sources` with the plan of a run whose settings are `config`."""
    groups = statistics.repeated_groups(scanned)
    dataset = plan.dataset
    mean, std = statistics.channel_statistics(scanned, plan.train) or (None, None)
    all_findings = findings.findings(config.batch_size, sources, scanned, plan, groups)
    return Inspection(
        dataset=dataset.name,
        splits=statistics.split_statistics(scanned),
        parts={
            purpose: SelectedSplit(plan.split(purpose), len(positions)) for purpose, positions in plan.subsets.items()
        },
        image_size=dataset.image_size,
        eval_resize=dataset.eval_resize,
        eval_crop=dataset.eval_crop,
        smaller=statistics.count_smaller(scanned, sorted({dataset.image_size, dataset.eval_crop} - {None})),
        mean=mean,
        std=std,
        memory=plan.memory,
        unreadable={scanned.subset.name(position): reason for position, reason in scanned.unreadable.items()},
        ignored=[path for source in sources.values() for path in getattr(source, "ignored", ())],
        repeated=[statistics.describe_repeated(scanned, group) for group in groups],
        would_spoil=[finding.sentence for finding in all_findings if finding.spoils],
        worth_knowing=[finding.sentence for finding in all_findings if not finding.spoils],
    )
