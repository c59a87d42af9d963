"""Text files are read and written alike in every locale."""

import ast
import json
import os
import subprocess
import sys

from tests.conftest import ROOT
from tests.end_to_end.program import ASCII_LOCALE

FOLDERS = ("resnet_jax", "configs", "benchmarks", "docs", "examples")
DESCRIBE_FOLDER = """
import json, os, sys
from resnet_jax.data.folder import open_folder
source = open_folder("folder:" + sys.argv[1])["train"]
names = [os.fsencode(source.name(index)).hex() for index in range(len(source))]
print(json.dumps([source.classes, source.labels.tolist(), names]))
"""


def depends_on_the_locale(call: ast.Call) -> bool:
    """Return whether a call reads or writes text without naming its encoding."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if isinstance(call.func, ast.Name):
        name, arguments = call.func.id, call.args[1:]  # open(path, mode)
    else:
        name, arguments = getattr(call.func, "attr", ""), call.args  # path.open(mode)
    if name == "open":
        mode = keywords.get("mode", arguments[0] if arguments else ast.Constant("r"))
        return isinstance(mode, ast.Constant) and "b" not in str(mode.value)
    return name in ("read_text", "write_text") or (name in ("run", "Popen", "check_output") and "text" in keywords)


def test_encoding_is_named_wherever_text_is_read_or_written():
    unnamed = []
    for path in [ROOT / "main.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and depends_on_the_locale(node):
                unnamed.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert unnamed == []


def test_folder_has_the_same_classes_and_order_in_every_locale(tmp_path):
    for name in ("Kätzchen", "caf\udce9", "猫"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / f"größe{number}.png").touch()
    command = [sys.executable, "-c", DESCRIBE_FOLDER, str(tmp_path)]
    described = [
        json.loads(subprocess.check_output(command, cwd=ROOT, env={**os.environ, **locale}))
        for locale in ({"PYTHONUTF8": "1"}, ASCII_LOCALE)
    ]
    assert described[0] == described[1]
    assert described[1][0] == ["Kätzchen", "caf\udce9", "猫"]
