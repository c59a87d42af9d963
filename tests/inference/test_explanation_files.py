"""The directory of explanations: errors."""

import errno

import pytest

from resnet_jax import files
from resnet_jax.errors import UserError
from resnet_jax.inference.explain import Problem
from resnet_jax.inference.explanation_files import ExplanationFiles


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file", "file is not a directory"),
        ("file/new", "file is not a directory"),
        ("full", "full is not empty"),
        ("gs://bucket/new", "cannot write to a bucket"),
    ],
)
def test_unsuitable_directory_is_reported(tmp_path, monkeypatch, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        ExplanationFiles(name)


def test_directory_is_made_when_something_is_written(tmp_path):
    explanation_files = ExplanationFiles(str(tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists()
    explanation_files.write(Problem("x.png", "it is empty"))
    assert (explanation_files.explained, explanation_files.failed) == (0, 1)
    assert (tmp_path / "a" / "b" / "explanations.jsonl").read_text() == '{"image": "x.png", "error": "it is empty"}\n'


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "Free some space there, or choose another"), (errno.EIO, "Choose another")]
)
def test_failed_write_is_reported(tmp_path, monkeypatch, number, remedy):
    def fail(path, content):
        raise OSError(number, "the reason")

    monkeypatch.setattr(files, "write", fail)
    with pytest.raises(UserError, match=rf"a.png \(the reason\). {remedy} directory."):
        ExplanationFiles(str(tmp_path))._write("a.png", b"")
