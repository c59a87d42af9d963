"""Exports of a run on digits, as a user makes them."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from resnet_jax.export.weights import export_weights
from resnet_jax.trained_model import load_run
from tests.end_to_end.program import WITH_TENSORFLOW, run

pytestmark = pytest.mark.slow

# What docs/export.md shows: it runs a file with JAX alone.
RUN_WITH_JAX_ALONE = """
import jax
import numpy as np
model = jax.export.deserialize(bytearray(open("{path}", "rb").read()))
print(model.call(np.zeros((3, 8, 8, 1), np.uint8))["probabilities"].tolist())
"""


def test_stablehlo_file_runs_with_jax_alone(finished_run, tmp_path):
    path = tmp_path / "model.stablehlo"
    finished = run("export", f"--workdir={finished_run}", f"--to={path}", JAX_PLATFORMS="cuda")
    assert finished.returncode == 0, finished.stderr  # It computes on the CPU anyway.
    lines = finished.stdout.splitlines()
    assert lines[0].startswith(f"Wrote the weights of step {load_run(str(finished_run)).step} to {path} (")
    assert lines[1] == "It turns images, uint8 [batch, 8, 8, 1], into probabilities."
    assert lines[2].startswith("Checked in JAX")
    assert lines[2].endswith("in a process of its own, on 60 validation images:")
    assert lines[4].endswith("for 60 of 60 images")
    script = RUN_WITH_JAX_ALONE.format(path=path)
    printed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = load_run(str(finished_run)).predict(np.zeros((3, 8, 8, 1), np.uint8)).probabilities
    np.testing.assert_allclose(json.loads(printed.stdout), expected, atol=1e-6)


def test_onnx_file_in_int8_reports_its_accuracy_as_json(finished_run, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    arguments = (f"--workdir={finished_run}", f"--to={path}", "--quantize=int8", "--max_drop=0.3", "--format=json")
    finished = run("export", *arguments)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert result["file"] == str(path)
    assert result["bytes"] == path.stat().st_size == result["quantization"]["int8"]["num_bytes"]
    assert result["proof"]["images"] == "validation images"
    assert result["quantization"]["float32"]["num_images"] == 60
    trained = load_run(str(finished_run))
    assert result["quantization"]["float32"]["top1"] == pytest.approx(trained.validation["top1"])


def test_published_weights_are_exported_without_their_dataset(finished_run, tmp_path):
    weights, path = tmp_path / "weights.safetensors", tmp_path / "model.stablehlo"
    trained = load_run(str(finished_run))
    export_weights(trained, str(weights))
    arguments = (f"--config.model.name={trained.config.model.name}", f"--config.init_from={weights}", f"--to={path}")
    finished = run(
        "export", "--config=configs/folder.py", "--config.dataset.name=folder:/missing", *arguments, "--format=json"
    )
    assert finished.returncode == 0, finished.stderr
    assert "The file is checked on random images, because the dataset cannot be opened" in finished.stderr
    proof = json.loads(finished.stdout)["proof"]
    assert (proof["images"], proof["num_images"]) == ("random images", 64)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("metadata.json"))["classes"] == list(trained.classes)


@pytest.mark.parametrize(("to", "runtime"), [("resnet.v2/", "TensorFlow "), ("model.tflite", "TFLite of TensorFlow ")])
def test_tensorflow_formats_equal_the_model(finished_run, tmp_path, to, runtime):
    pytest.importorskip("tensorflow")
    outputs = "--outputs=logits,probabilities,features"
    arguments = (f"--workdir={finished_run}", f"--to={tmp_path}/{to}", outputs, "--batch=4", "--format=json")
    finished = run("export", *arguments, **WITH_TENSORFLOW)
    assert finished.returncode == 0, finished.stderr
    proof = json.loads(finished.stdout)["proof"]
    assert proof["runtime"].startswith(runtime)
    assert list(proof["differences"]) == ["logits", "probabilities", "features"]
    assert max(proof["differences"].values()) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to=DIR/model.stablehlo", "--quantize=int8"], "--quantize has no effect on a path that ends in .stablehlo"),
        (["--to=DIR/model.onnx", "--calibrate=9"], "--calibrate has no effect without --quantize=int8. Leave it out."),
        (["--to=DIR/w.safetensors", "--batch=2"], "--batch has no effect on a path that ends in .safetensors"),
        (
            ["--to=DIR/saved_model/"],
            "needs tensorflow, which is not installed. In a checkout of this project, run: pip",
        ),
        (["--to=DIR/model.stablehlo", "--workdir=DIR/empty"], "is not a run directory"),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(finished_run, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    arguments = [argument.replace("DIR", str(tmp_path)) for argument in arguments]
    finished = run("export", f"--workdir={finished_run}", *arguments)
    assert finished.returncode == 2
    assert message in finished.stderr.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before


def test_run_without_checkpoint_cannot_be_exported(finished_run, tmp_path):
    for name in ("config.json", "classes.json"):
        (tmp_path / name).write_bytes((finished_run / name).read_bytes())
    finished = run("export", f"--workdir={tmp_path}", f"--to={tmp_path}/model.stablehlo")
    assert finished.returncode == 2
    assert "has no checkpoint yet. Train it first." in finished.stderr
    assert not (tmp_path / "model.stablehlo").exists()
