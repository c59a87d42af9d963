"""What a train step takes, as a user asks for it."""

import json

import pytest

from tests.end_to_end.program import run

DIGITS = ("benchmark", "--config=configs/digits.py")
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


def test_collectives_of_a_recipe_on_simulated_devices():
    finished = run(*DIGITS, "--collectives", "--format=json", XLA_FLAGS=EIGHT_DEVICES)
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    found = json.loads(line)
    assert (found["model"], found["batch_size"], found["devices"], found["device_kind"]) == ("resnet20", 64, 8, "cpu")
    (reduced,) = found["collectives"]
    assert (reduced["kind"], reduced["asynchronous"]) == ("all-reduce", 0)
    assert 4 * 269_434 <= reduced["bytes"] == reduced["by_type"]["f32"] < 1.02 * 4 * 269_434  # One channel, not three.
    assert found["memory"]["temporary"] > 0
    assert found["flops"] > 0
    assert (found["capacity"], found["scaling"]) == (None, [])


@pytest.mark.slow
def test_the_speed_of_a_recipe_and_what_holds_it_up():
    finished = run(*DIGITS, "--format=json")
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    found = json.loads(line)
    assert (found["model"], found["batch_size"], found["feed"]) == ("resnet20", 64, "resident")
    assert found["images_per_second"] > 0
    assert 0 < found["utilization"] < 1
    assert found["peak"]["source"] == "measured"
    assert found["bottleneck"] in ("device", "input", "host")
    assert found["device"] + found["input"] + found["host"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--compile_for=v5e:2x4"], "add --collectives"),
        (["--collectives", "--link_gbytes_per_s=90"], "of cpu is not known: name a TPU with --compile_for"),
    ],
)
def test_what_it_cannot_tell(arguments, sentence):
    finished = run(*DIGITS, *arguments)
    assert finished.returncode == 2
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert sentence in line


@pytest.mark.slow
def test_a_tpu_that_is_not_there():
    pytest.importorskip("libtpu", reason="compiling for a TPU takes libtpu: pip install libtpu")
    arguments = ("--collectives", "--compile_for=v5e:2x4", "--link_gbytes_per_s=90", "--format=json")
    finished = run(*DIGITS, *arguments)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert (found["devices"], found["device_kind"], found["capacity"]) == (8, "TPU v5 lite", 16 * 2**30)
    assert [reduced["kind"] for reduced in found["collectives"]] == ["all-reduce"]
    assert 0 < found["memory"]["temporary"] < found["capacity"]
    assert all(0 < at["efficiency"] <= at["efficiency_overlapped"] <= 1 for at in found["scaling"])
