"""Tell what is in pictures, or which pictures of a folder they are most like.

    python main.py predict --workdir=/tmp/run cat.jpg pictures/ -        # files, folders, a picture on standard input
    python main.py predict --workdir=/tmp/run cat.jpg --similar_to=pictures/

With `--format=json` the line is `{"checkpoint_step": ..., "failed": ..., "pictures": [...]}`: `failed` is the number of
pictures that could not be read, those of `--similar_to` included, and for each picture in turn there is an object:
`picture`, its path; `best`, a list of `{"class": ..., "probability": ...}`, or with `--similar_to` of
`{"similar": ..., "similarity": ...}`, the best first; and `error`, why it could not be read, or null. With
`--format=csv` the columns are `picture`, `class_1`, `probability_1`, ..., or `similar_1`, `similarity_1`, ..., and
`error`. `--features` writes the arrays `features`, float32 [n, width], `names` [n], the paths of the pictures that
could be read, and `classes`.

Progress is shown on stderr, if that is a terminal. The exit code is 1 where a picture could not be read.
"""

import logging
import sys

from absl import flags

from resnet_jax.cli import model_flags
from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)

ARGUMENTS = "pictures: files, folders with all that lies below them, or - for one on standard input"
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json", "csv"], "Lines for people, one line of JSON, or CSV.")
TOP = flags.DEFINE_integer("top", 3, "Classes, or similar pictures, that are named for each picture.", lower_bound=1)
FEATURES = flags.DEFINE_string("features", None, "A file.npz to write: for each picture what the head is applied to.")
SIMILAR_TO = flags.DEFINE_string("similar_to", None, "A folder, of which the pictures most like each are named.")


def run(arguments: list[str]) -> int:
    from resnet_jax import terminal
    from resnet_jax.cli.app import DONE, SOME_FAILED
    from resnet_jax.inference import predict
    from resnet_jax.inference.features import check

    model_flags.check_flags("predict")
    if not arguments:
        raise UserError("predict takes pictures: name files, folders, or - for one on standard input")
    if FEATURES.value:
        check(FEATURES.value)
    pictures = predict.find(arguments)
    others = predict.find_in(SIMILAR_TO.value) if SIMILAR_TO.value else []
    # Names of files may be any bytes: CSV has them as they are.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape" if FORMAT.value == "csv" else "replace")
    with terminal.Reporter(active=sys.stderr.isatty(), stream=sys.stderr) as reporter:
        failed = _predict(pictures, others, reporter)
        if failed:
            logger.warning("%s of %s images could not be read.", f"{failed:,}", f"{len(pictures) + len(others):,}")
    return SOME_FAILED if failed else DONE


def _predict(pictures: list[str], others: list[str], reporter) -> int:
    """Predict, write the answers, and return how many images could not be read."""
    from resnet_jax import terminal
    from resnet_jax.inference import formatters, predict
    from resnet_jax.inference.features import Features

    trained = model_flags.load()
    scale, names, rank, failed = _ranking(trained, others, reporter)
    features, writer = Features(), formatters.FORMATS[FORMAT.value](scale, min(TOP.value, len(names)), pictures, names)
    for some, outputs in predict.outputs(trained, pictures, reporter):
        reporter.clear()
        try:
            writer.write(predict.answers(some, outputs, rank))
        except BrokenPipeError:
            if not (FEATURES.value and terminal.discard_closed_stdout()):
                raise
        failed += len(outputs.problems)
        if FEATURES.value:
            features.add(some, outputs)
    reporter.clear()
    writer.end(checkpoint_step=trained.step, failed=failed)
    if FEATURES.value:
        features.write(FEATURES.value, trained.classes)
    return failed


def _ranking(trained, others: list[str], reporter):
    """What answers name: classes by their probabilities, or `others` by their likeness.

    Returns:
      The scale of the answers, all that they may name, what ranks these, and how many pictures could not be read.
    """
    from resnet_jax.inference import formatters, predict, retrieval
    from resnet_jax.inference.features import Features
    from resnet_jax.terminal import printable

    if not others:
        return formatters.PROBABILITY, trained.classes, predict.likeliest(trained.classes, TOP.value), 0
    among = Features.of(predict.outputs(trained, others, reporter, "the folder"))
    for picture, problem in among.problems.items():
        logger.warning("Unreadable: %s: %s", printable(picture), problem)
    if not among.pictures:
        raise UserError(f"not one picture of {SIMILAR_TO.value} can be read: name another folder")
    return formatters.SIMILARITY, among.pictures, retrieval.nearest(among, TOP.value), len(among.problems)
