"""Write the chosen checkpoint of a run, or published weights, as a file that other programs run or read.

    python main.py export --workdir=/tmp/run --to=model.onnx
    python main.py export --workdir=/tmp/run --to=model.onnx --quantize=int8 --calibrate=512

docs/export.md describes the formats.
"""

import json
import sys

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

MODEL = shared_flags.ModelFlags()
TO = flags.DEFINE_string(
    "to",
    None,
    "What to write; the end of the path chooses the format: model.onnx, model.stablehlo, model.tflite, saved_model/ "
    "(TensorFlow), or weights.safetensors with the parameter names of torchvision or timm.",
    required=True,
)
OUTPUTS = flags.DEFINE_list(
    "outputs", ["probabilities"], "What the model returns: probabilities, logits and features, separated by commas."
)
BATCH = flags.DEFINE_integer(
    "batch",
    None,
    "The only batch size that the model takes; unset: any, or 1 for .tflite and saved_model/, whose size is fixed.",
    lower_bound=1,
)
QUANTIZE = flags.DEFINE_enum("quantize", None, ["int8"], "Compute in int8; only for .onnx.")
CALIBRATE = flags.DEFINE_integer(
    "calibrate", 512, "The number of training images that determine the ranges of activations for int8.", lower_bound=1
)
MAX_DROP = flags.DEFINE_float(
    "max_drop",
    0.01,
    "How much top-1 int8 may lose on the validation images before the export is refused, in [0, 1].",
    0.0,
    1.0,
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what is there.")
DATA_DIR = shared_flags.define_data_dir()
FORMAT = shared_flags.define_format()

CHECKED_IMAGES = 256  # The file is compared with the model on this many images.


def run() -> ExitCode:
    import jax

    from resnet_jax.export import targets
    from resnet_jax.terminal import Reporter

    MODEL.check("export")
    suffix = targets.suffix_of(TO.value)
    _check_flags(suffix)
    targets.check_target(TO.value, OVERWRITE.value)
    # The runtimes of exported files compute on the CPU, in float32. So does the model that they are compared with.
    jax.config.update("jax_platforms", "cpu")
    with Reporter(active=sys.stderr.isatty(), stream=sys.stderr) as reporter:
        trained = MODEL.load(data_dir=DATA_DIR.value, needs_dataset=False)
        if suffix == targets.WEIGHTS:
            return _export_weights(trained)
        return _export_program(trained, reporter)


def _check_flags(suffix: str) -> None:
    """Raise `UserError` if a flag is wrong, or has no effect on the format."""
    from resnet_jax.export.program import check_outputs, class_scores
    from resnet_jax.export.targets import WEIGHTS

    check_outputs(OUTPUTS.value)
    for_int8 = (QUANTIZE, CALIBRATE, MAX_DROP)
    if suffix == WEIGHTS:
        without_effect = [OUTPUTS, BATCH, *for_int8, *([DATA_DIR] if MODEL.workdir.value else [])]
    elif suffix != ".onnx":
        without_effect = list(for_int8)
    elif QUANTIZE.value:
        without_effect = [BATCH]
    else:
        without_effect = [CALIBRATE, MAX_DROP]
    for flag in without_effect:
        if flag.present:
            if suffix != ".onnx":
                where = f"on a path that ends in {suffix}"
            elif QUANTIZE.value:
                where = "on an .onnx file in int8"
            else:
                where = "without --quantize=int8"
            raise UserError(f"--{flag.name} has no effect {where}. Leave it out.")
    if QUANTIZE.value and class_scores(OUTPUTS.value) is None:
        raise UserError("int8 is scored by its top-1. Add probabilities or logits to --outputs.")


def _export_weights(trained) -> ExitCode:
    from resnet_jax.export.weights import export_weights
    from resnet_jax.pretrained.naming import scheme_for_model
    from resnet_jax.terminal import print_result

    export_weights(trained, TO.value)
    names = scheme_for_model(trained.model).name
    if FORMAT.value == "json":
        print_result(json.dumps({"file": TO.value, "checkpoint_step": trained.step, "names": names}))
    else:
        print_result(f"Wrote {_weights(trained)} to {TO.value}, with the parameter names of {names}.")
    return ExitCode.DONE


def _export_program(trained, reporter) -> ExitCode:
    """Write a file that runs, and print how it was checked."""
    from resnet_jax.export.examples import RunExamples, sample_validation
    from resnet_jax.export.export_model import Quantization, export_model
    from resnet_jax.export.program import class_scores, make_program
    from resnet_jax.terminal import print_result

    scores = class_scores(OUTPUTS.value)
    if scores is not None:
        trained.require_head()
    if QUANTIZE.value and trained.is_multi_label:
        raise UserError("int8 is scored by its top-1, which needs one label per image. Leave out --quantize.")
    examples = sample_validation(trained, CHECKED_IMAGES, DATA_DIR.value, reporter)
    program = make_program(trained, OUTPUTS.value, examples.images.shape[1:])
    quantization = None
    if QUANTIZE.value and scores is not None:  # `_check_flags` refuses the other case.
        calibration = RunExamples(trained, "training", DATA_DIR.value, reporter).sample(CALIBRATE.value).images
        scored = RunExamples(trained, "validation", DATA_DIR.value, reporter)
        quantization = Quantization(calibration, scored, scores, MAX_DROP.value)
    exported = export_model(program, TO.value, examples.images, reporter, BATCH.value, quantization, OVERWRITE.value)
    if FORMAT.value == "json":
        print_result(_as_json(trained, program, examples.name, exported))
    else:
        print_result(_as_text(trained, program, examples.name, exported))
    return ExitCode.DONE


def _as_json(trained, program, images: str, exported) -> str:
    quantization = None
    if exported.measured:
        quantization = {name: values._asdict() for name, values in exported.measured.items()}
    return json.dumps(
        {
            "file": TO.value,
            "bytes": exported.num_bytes,
            "checkpoint_step": trained.step,
            "image_shape": program.image_shape,
            "outputs": program.outputs,
            "proof": {"images": images, **exported.proof._asdict()},
            "quantization": quantization,
        }
    )


def _as_text(trained, program, images: str, exported) -> str:
    from resnet_jax.export.targets import FORMATS, suffix_of

    proof, measured = exported.proof, exported.measured
    any_batch = FORMATS[suffix_of(TO.value)].any_batch
    shape = ", ".join(map(str, (BATCH.value or ("batch" if any_batch else 1), *program.image_shape)))
    checked = "The file in float32 was checked" if measured else "Checked"
    lines = [
        f"Wrote {_weights(trained)} to {TO.value} ({exported.num_bytes / 1e6:,.1f} MB).",
        f"It turns images, uint8 [{shape}], into {', '.join(program.outputs)}.",
        f"{checked} in {proof.runtime}, in a process of its own, on {proof.num_images:,} {images}:",
    ]
    for name, difference in proof.differences.items():
        lines.append(f"  {name} differ from those of the model by at most {difference:.1e} of the largest value")
    if proof.same_top1 is not None:
        same = f"{proof.same_top1:,} of {proof.num_images:,}"
        lines.append(f"  the same class is the most probable one for {same} images")
    if not any_batch:
        lines.append(
            "The batch size is fixed (--batch), because TensorFlow cannot read every JAX program with a free one."
        )
    if measured:
        same, total = measured["int8"].same_as_first, measured["int8"].num_images
        lines.append(f"In int8, it predicts the same class for {same:,} of {total:,} {exported.measured_on}:")
        for name, values in measured.items():
            speed = f"{values.latency_ms:,.2f} ms for one image, {values.images_per_second:,.0f} images/s in batches"
            lines.append(f"  {name:8s} top-1 {values.top1:.2%}  {values.num_bytes / 1e6:,.1f} MB  {speed}")
        if trained.step is None:
            lines.append("The published weights may have been trained on these images.")
    return "\n".join(lines)


def _weights(trained) -> str:
    """Return a phrase that names the weights."""
    from resnet_jax.pretrained.load import address_of_initial_weights

    if trained.step is None:
        return address_of_initial_weights(MODEL.config.value)
    return f"the weights of step {trained.step:,}"
