"""Classify images, or find the most similar images in a folder.

    python main.py predict --workdir=/tmp/run cat.jpg images/ -        # a file, a folder, an image on standard input
    python main.py predict --workdir=/tmp/run cat.jpg --similar_to=images/

With `--format=json`, the output is `{"checkpoint_step": ..., "failed": ..., "pictures": [...]}`. `failed` is the number
of images that could not be read, including those of `--similar_to`. `pictures` is a list with one object per image, in
order. The keys of such an object are:

picture    the path of the image file
best       a list of `{"class": ..., "probability": ...}`, or with `--similar_to` of
           `{"similar": ..., "similarity": ...}`, best first
error      why the image could not be read, or null

With `--format=csv`, the columns are `picture` (the path of the image file), `class_1`, `probability_1`, ... and
`error`. With `--similar_to`, the columns `similar_1`, `similarity_1`, ... replace those of the classes. The names
`pictures` and `picture` are kept for scripts.

For a model of images with any number of labels, `best` and its columns hold only the classes whose probabilities reach
their thresholds: those of `thresholds.json`, or 0.5.

`--features` writes three arrays: `features`, float32 [n, width]; `names` [n], the paths of the readable images; and
`classes`, the class names. For a model that was pre-trained without labels, there are no classes, and `best` is empty.

Progress is shown on stderr if that is a terminal. The exit code is 1 if any image could not be read.
"""

import logging
import sys

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, OutputClosed, UserError

logger = logging.getLogger(__name__)

ARGUMENTS = "images: files, folders (all images in them, at any depth), or - for one image on standard input"
MODEL = shared_flags.ModelFlags()
FORMAT = shared_flags.define_format("csv")
TOP = flags.DEFINE_integer("top", 3, "How many classes, or similar images, to name per image.", lower_bound=1)
SIMILAR_TO = flags.DEFINE_string("similar_to", None, "A folder in which to find the most similar images.")
FEATURES = flags.DEFINE_string(
    "features", None, "An .npz file to write, with the features of each image: the vector that the head classifies."
)


def run(arguments: list[str]) -> ExitCode:
    from resnet_jax.inference import predict
    from resnet_jax.inference.features import check_target
    from resnet_jax.terminal import Reporter

    MODEL.check("predict")
    if not arguments:
        raise UserError("predict needs images. Name files, folders, or - for one image on standard input.")
    if FEATURES.value:
        check_target(FEATURES.value)
    # The output is UTF-8 in every locale. CSV keeps the bytes of file names that are not UTF-8.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]  # is a TextIOWrapper
    with Reporter(active=sys.stderr.isatty(), stream=sys.stderr) as reporter:
        images = predict.find_images(arguments)
        candidates = predict.find_in_folder(SIMILAR_TO.value) if SIMILAR_TO.value else []
        failed = _predict(images, candidates, reporter)
        if failed:
            logger.warning(f"{failed:,} of {len(images) + len(candidates):,} images could not be read.")
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _predict(images: list[str], candidates: list[str], reporter) -> int:
    """Write the predictions and, if requested, the features. Return how many images could not be read."""
    from resnet_jax.inference import formatters, predict
    from resnet_jax.inference.features import Features

    trained = MODEL.load()
    columns, names, rank, failed = _ranking(trained, candidates, reporter)
    features = Features()
    output_closed: OutputClosed | None = None
    formatter = None
    for batch, outputs in predict.model_outputs(trained, images, reporter):
        reporter.clear()
        try:
            if not output_closed:
                if formatter is None:  # It prints a header.
                    formatter = formatters.FORMATTERS[FORMAT.value](columns, min(TOP.value, len(names)), images, names)
                formatter.write(predict.predictions(batch, outputs, rank))
        except OutputClosed as error:
            if not FEATURES.value:
                raise
            output_closed = error  # The features are still to be written.
        failed += len(outputs.problems)
        if FEATURES.value:
            features.add(batch, outputs)
    reporter.clear()
    if FEATURES.value:
        features.write(FEATURES.value, trained.classes)
    if output_closed:
        raise output_closed
    assert formatter is not None  # There is at least one image.
    formatter.end(checkpoint_step=trained.step, failed=failed)
    return failed


def _ranking(trained, candidates: list[str], reporter):
    """Choose what to rank: the classes by probability, or the `candidates` by similarity.

    Returns:
      The columns of the output, the names of all classes or candidates, the function that ranks them, and the number
      of candidates that could not be read.
    """
    from resnet_jax.inference import formatters, predict, retrieval
    from resnet_jax.inference.features import Features
    from resnet_jax.terminal import printable

    if not candidates and not trained.classes and FEATURES.value:
        return formatters.CLASS_COLUMNS, (), lambda outputs: [[]] * len(outputs.features), 0
    if not candidates:
        trained.require_head()
        rank = predict.rank_by_probability(trained.classes, TOP.value, trained.decision_thresholds)
        return formatters.CLASS_COLUMNS, trained.classes, rank, 0
    features = Features.collect(predict.model_outputs(trained, candidates, reporter, "the folder"))
    for image, problem in features.problems.items():
        logger.warning(f"Unreadable: {printable(image)}: {problem}")
    if not features.paths:
        raise UserError(f"no image in {SIMILAR_TO.value} can be read. Choose another folder.")
    return (
        formatters.SIMILARITY_COLUMNS,
        features.paths,
        retrieval.rank_by_similarity(features, TOP.value),
        len(features.problems),
    )
