"""The commands `benchmark` and `find_lr`."""

import json
import subprocess
import sys

import pytest

from tests.end_to_end.program import ROOT, TINY_PROGRAM, run

DIGITS = ("benchmark", "--config=configs/digits.py")
CHECK_FLAGS = (
    "import sys; sys.modules['jax'] = None; from absl import flags; from resnet_jax.cli import benchmark; "
    "flags.FLAGS(sys.argv); benchmark.run()"
)
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


@pytest.mark.slow
def test_benchmark_reports_the_collectives_of_a_recipe_on_simulated_devices():
    finished = run(*DIGITS, "--collectives", "--format=json", XLA_FLAGS=EIGHT_DEVICES)
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    analysis = json.loads(line)
    assert (analysis["model"], analysis["batch_size"]) == ("resnet20", 64)
    assert (analysis["devices"], analysis["device_kind"]) == (8, "cpu")
    (all_reduce,) = analysis["collectives"]
    assert (all_reduce["kind"], all_reduce["asynchronous"]) == ("all-reduce", 0)
    parameter_bytes = 4 * 269_434  # of a ResNet-20 for images with one channel
    assert parameter_bytes <= all_reduce["bytes"] == all_reduce["by_type"]["f32"] < 1.02 * parameter_bytes
    assert analysis["memory"]["temporary"] > 0
    assert analysis["flops"] > 0
    assert (analysis["capacity"], analysis["scaling"]) == (None, [])


@pytest.mark.slow
def test_benchmark_reports_the_speed_and_the_bottleneck_of_a_recipe(tmp_path):
    program = tmp_path / "short_rounds.py"
    program.write_text(
        "import runpy\nfrom resnet_jax.diagnostics import throughput\n"
        "throughput.ROUNDS, throughput.SECONDS_PER_ROUND = 3, 0.2\n"
        f"runpy.run_path({TINY_PROGRAM!r}, run_name='__main__')\n"
    )
    finished = run(*DIGITS, "--config.model.name=tiny", "--format=json", program=str(program))
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    measured = json.loads(line)
    assert (measured["model"], measured["batch_size"], measured["feed"]) == ("tiny", 64, "resident")
    assert measured["images_per_second"] > 0
    assert 0 < measured["utilization"] < 1
    assert measured["peak"]["source"] == "measured"
    assert measured["bottleneck"] in ("device", "input", "host")
    assert measured["device"] + measured["input"] + measured["host"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--collectives", "--link_gbytes_per_s=90"], "(cpu) is unknown. Name a TPU with --compile_for"),
    ],
)
def test_benchmark_reports_flags_that_do_not_work_together(arguments, sentence):
    finished = run(*DIGITS, *arguments)
    assert finished.returncode == 2
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert sentence in line


@pytest.mark.slow
def test_benchmark_compiles_for_a_tpu_that_is_not_present():
    pytest.importorskip("libtpu", reason="compiling for a TPU requires libtpu: pip install libtpu")
    arguments = ("--collectives", "--compile_for=v5e:2x4", "--link_gbytes_per_s=90", "--format=json")
    finished = run(*DIGITS, *arguments)
    assert finished.returncode == 0, finished.stderr
    analysis = json.loads(finished.stdout.splitlines()[-1])
    assert (analysis["devices"], analysis["device_kind"]) == (8, "TPU v5 lite")
    assert analysis["capacity"] == 16 * 2**30
    assert [collective["kind"] for collective in analysis["collectives"]] == ["all-reduce"]
    assert 0 < analysis["memory"]["temporary"] < analysis["capacity"]
    for expected in analysis["scaling"]:
        assert 0 < expected["efficiency"] <= expected["efficiency_overlapped"] <= 1


@pytest.mark.slow
def test_find_lr_suggests_a_range_and_writes_a_page(tmp_path):
    page = tmp_path / "learning_rate.html"
    recipe = ("--config=configs/digits.py", "--config.model.name=tiny")
    finished = run("find_lr", *recipe, f"--to={page}", "--steps=60", "--format=json")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    low, high = result["suggested"]
    assert 1e-5 < low <= high < 10
    assert len(result["losses"]) == len(result["learning_rates"]) == len(result["smoothed"])
    assert f"{low:.2g} to {high:.2g}" in page.read_text()
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--collectives", "--hop_us=2"], "--hop_us has no effect without --link_gbytes_per_s. Give both or neither."),
        (["--compile_for=v5e:2x4"], "--compile_for and --link_gbytes_per_s need --collectives. Add it."),
        (
            ["--collectives", "--slice_link_gbytes_per_s=3"],
            "needs the speed inside a slice too. Give --link_gbytes_per_s.",
        ),
        (
            ["--collectives", "--link_gbytes_per_s=90", "--slice_link_gbytes_per_s=3"],
            "--slice_link_gbytes_per_s needs several slices. Give --slices.",
        ),
        (["--collectives", "--slices=2"], "--slices needs the kind of slice to compile for. Give --compile_for."),
    ],
)
def test_benchmark_flag_without_the_flags_that_it_needs_is_refused(arguments, sentence):
    command = [sys.executable, "-c", CHECK_FLAGS, *DIGITS[1:], *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "UserError: " in finished.stderr and sentence in finished.stderr.splitlines()[-1], finished.stderr
