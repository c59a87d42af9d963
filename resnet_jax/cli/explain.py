"""Show which pixels of an image are important for a class, and how far these explanations can be trusted.

    python main.py explain --workdir=/tmp/run cat.jpg photos/ --method=grad_cam,integrated_gradients --to=explanations/
    python main.py explain --workdir=/tmp/run --split=test --examples=worst:16 --to=explanations/

docs/explain.md names the files, the keys of `explanations.jsonl` and those of `--format=json`.

Progress is shown on stderr if that is a terminal. The exit code is 1 if any image could not be read.
"""

import dataclasses
import json
import sys
import time

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

ARGUMENTS = "images: files, or folders (all images in them, at any depth)"
MODEL = shared_flags.ModelFlags()
TO = flags.DEFINE_string("to", None, "The directory to write to: new or empty.", required=True)
METHOD = flags.DEFINE_list(
    "method",
    ["grad_cam"],
    "Methods, separated by commas: grad_cam, grad_cam_plus_plus, hires_cam, layer_cam, input_gradient, smooth_grad, "
    "integrated_gradients, guided_backpropagation, occlusion, rise.",
)
TARGET = flags.DEFINE_string("target", None, "The class to explain; unset: the predicted class of each image.")
STAGE = flags.DEFINE_string("stage", None, "The stage for class activation maps; unset: the last one.")
SPLIT = flags.DEFINE_string("split", None, "In place of images, a split of the dataset, such as test.")
EXAMPLES = flags.DEFINE_string(
    "examples",
    None,
    "Which examples of --split: worst:16, best:16, random:16, or positions such as 3,17; unset: random:16.",
)
FAITHFULNESS = flags.DEFINE_bool(
    "faithfulness", False, "Measure how far each method can be trusted: deletion, insertion and randomization."
)
DATA_DIR = shared_flags.define_data_dir()
FORMAT = shared_flags.define_format()


def run(arguments: list[str]) -> ExitCode:
    from resnet_jax.attribution import methods
    from resnet_jax.inference.explain import Explainer
    from resnet_jax.inference.explanation_files import ExplanationFiles
    from resnet_jax.inference.faithfulness_table import FaithfulnessMeter
    from resnet_jax.terminal import Reporter

    MODEL.check("explain")
    if bool(arguments) == bool(SPLIT.value):
        raise UserError("explain takes either images or --split. Give exactly one of the two.")
    if EXAMPLES.value and not SPLIT.value:
        raise UserError("--examples chooses examples of a split. Give --split as well.")
    if not METHOD.value:
        raise UserError(f"--method is empty. Choose from {', '.join(methods.METHODS)}.")
    methods.check(METHOD.value)
    explanation_files = ExplanationFiles(TO.value)
    with Reporter(active=sys.stderr.isatty(), stream=sys.stderr) as reporter:
        explainer = Explainer(MODEL.load(SPLIT.value, DATA_DIR.value), METHOD.value, TARGET.value, STAGE.value)
        examples = _open_examples(explainer.trained, arguments, reporter)
        meter = FaithfulnessMeter(explainer) if FAITHFULNESS.value else None
        started = time.monotonic()
        for batch, explanations in explainer.explain(examples, reporter, has_labels=bool(SPLIT.value)):
            for explanation in explanations:
                explanation_files.write(explanation)
            if meter:
                meter.add(batch)
        seconds = time.monotonic() - started
    measured = meter.result() if meter and explanation_files.explained else None
    _print(explainer.trained.step, explanation_files, seconds, measured)
    return ExitCode.SOME_FAILED if explanation_files.failed else ExitCode.DONE


def _open_examples(trained, arguments: list[str], reporter):
    """Open the images that the arguments name, or the examples of the split."""
    from resnet_jax.data import feed_config
    from resnet_jax.evaluation.evaluate import open_external_examples
    from resnet_jax.evaluation.model_comparison import Evaluator
    from resnet_jax.inference import predict
    from resnet_jax.inference.example_choice import choose_examples

    if arguments:
        return trained.examples(predict.find_images(arguments), feed_config.num_workers(trained.config.dataset))
    evaluator = Evaluator.open({"the model": trained}, reporter, SPLIT.value, data_dir=DATA_DIR.value)
    subset = choose_examples(evaluator, EXAMPLES.value or "random:16")
    # Open them as external examples, which are read when needed. Unreadable ones then keep their position.
    return open_external_examples(trained, subset, reporter=None)


def _print(step: int | None, explanation_files, seconds: float, measured) -> None:
    """Print the summary, and the faithfulness of the methods if it was measured."""
    from resnet_jax.attribution.methods import METHODS
    from resnet_jax.inference import faithfulness_table
    from resnet_jax.terminal import duration, print_result

    explained, failed, gaps = explanation_files.explained, explanation_files.failed, explanation_files.median_gaps()
    if FORMAT.value == "json":
        faithfulness = {name: dataclasses.asdict(values) for name, values in measured.items()} if measured else None
        summary = {
            "checkpoint_step": step,
            "explained": explained,
            "failed": failed,
            "seconds": seconds,
            "completeness_gaps": gaps,
            "faithfulness": faithfulness,
        }
        print_result(json.dumps(summary))
        return
    lines = [f"Explained {explained:,} of {explained + failed:,} images in {duration(seconds)}: {TO.value}"]
    for name, gap in gaps.items():
        lines.append(
            f"{METHODS[name].title}: the sum of a map differs from the change of the logit by {gap:.3g} (median)."
        )
    if measured:
        lines += ["", faithfulness_table.format_table(measured)]
    print_result("\n".join(lines))
