"""Text files are read and written alike in every locale."""

import ast

from tests.conftest import ROOT

FOLDERS = ("resnet_jax", "configs", "benchmarks", "docs")


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
