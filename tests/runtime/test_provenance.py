import json
import pathlib
import subprocess

import pytest

from resnet_jax.runtime import provenance


def test_describe_is_json_with_everything_that_results_depend_on():
    described = json.loads(json.dumps(provenance.describe()))
    assert described["device_count"] == 8
    assert set(provenance.REPRODUCIBLE_WITHIN) <= described.keys()


def test_differences_name_the_changes():
    now = provenance.describe()
    assert provenance.differences(now, now) == []
    assert provenance.differences({**now, "device_count": 1, "date": "then"}, now) == ["device_count 1 -> 8"]
    assert provenance.differences(now, {**now, "process_count": 2}) == ["process_count 1 -> 2"]


def test_old_run_without_the_key_counts_as_not_tuned():
    now = provenance.describe()
    before = {key: value for key, value in now.items() if key != "cpu_is_tuned"}
    assert provenance.differences(before, {**now, "cpu_is_tuned": False}) == []
    assert provenance.differences(before, {**now, "cpu_is_tuned": True}) == ["cpu_is_tuned False -> True"]


def git(root, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("changed", "counts"), [(None, False), ("benchmarks/results.jsonl", False), ("main.py", True), ("new.py", True)]
)
def test_changes_of_the_work_tree_are_marked_except_for_recorded_results(tmp_path, monkeypatch, changed, counts):
    (tmp_path / "resnet_jax" / "runtime").mkdir(parents=True)
    (tmp_path / "benchmarks").mkdir()
    for file in ("main.py", "benchmarks/results.jsonl", "resnet_jax/runtime/provenance.py"):
        (tmp_path / file).write_text("")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    if changed:
        (tmp_path / changed).write_text("changed")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "resnet_jax" / "runtime" / "provenance.py"))
    assert provenance.commit.__wrapped__().endswith("+changes") == counts


def test_package_installed_inside_another_project_has_no_commit(tmp_path, monkeypatch):
    runtime = tmp_path / ".venv" / "lib" / "resnet_jax" / "runtime"
    runtime.mkdir(parents=True)
    for file in (tmp_path / "theirs.py", tmp_path / ".gitignore", runtime / "provenance.py"):
        file.write_text(".venv" if file.name == ".gitignore" else "")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "theirs")
    monkeypatch.setattr(provenance, "__file__", str(runtime / "provenance.py"))
    assert provenance.commit.__wrapped__() is None


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (
            "cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nmodel\t\t: 2\n",
            "AMD EPYC (cpu family 26, model 2)",
        ),
        ("model name\t: ARMv7: rev 3\n", "ARMv7: rev 3"),
        ("processor\t: 0\nBogoMIPS\t: 48.00\n", ""),
    ],
)
def test_processor_name_distinguishes_generations_with_the_same_name(monkeypatch, cpuinfo, expected):
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path, encoding: cpuinfo)
    assert provenance._processor() == expected
