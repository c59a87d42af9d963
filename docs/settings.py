"""Write docs/settings.md: every setting with its type, default and description, from resnet_jax/config.py.

    python docs/settings.py

Run it after any change to `default()`. A test fails if the page is out of date.
"""

import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "settings.md"
SECTIONS = {
    "dataset": "The data: which dataset and splits to use, and how images are read.",
    "augment": "Augmentation of the training images.",
    "model": "The architecture. An unset value is taken from the model that `model.name` selects.",
    "optimizer": "The update of the parameters.",
    "schedule": "The learning rate over time.",
    "loss": "The loss, and knowledge distillation from a teacher.",
    "pretrain": "Self-supervised pre-training; see [pretraining.md](pretraining.md).",
    "federated": "Federated training. An epoch is then a round; see [federated.md](federated.md).",
    "batch_norm": "Batch normalization.",
    "early_stopping": "Ends a run early if it no longer improves. The schedule is not shortened.",
    "checkpoint": "What is saved, and when.",
}
INTRODUCTION = """# Settings

<!-- Written by docs/settings.py. Edit the comments in resnet_jax/config.py instead. -->

Every setting of a recipe is also a flag of the commands that take `--config`:

    python main.py --config=configs/cifar10.py --config.batch_size=256 --config.optimizer.learning_rate=0.2 --workdir=W

Tuples are quoted: `--config.freeze="('stem*', 'stage*')"`. The value `None` unsets a setting whose default is "unset":
`--config.ema_decay=None`. The settings are checked before anything is downloaded or compiled: an unknown name or an
impossible value is reported in a short error.
"""


def page() -> str:
    """Return the content of docs/settings.md."""
    from resnet_jax import config as settings

    config = settings.default()
    sections: dict[str, list[str]] = {"": []}
    for key, description in descriptions(inspect.getsource(settings.default)).items():
        section = key.rpartition(".")[0]
        value = settings.get(config, key)
        kind = settings.get_type(config, key).__name__
        default = "unset" if value is None else f"`{value!r}`"
        row = f"| `{key}` | {kind} | {default} | {description.replace('|', chr(92) + '|')} |"
        sections.setdefault(section, []).append(row)
    header = "| setting | type | default | description |\n| --- | --- | --- | --- |\n"
    text = INTRODUCTION
    for section, rows in sections.items():
        if section:
            text += f"\n## `{section}`\n\n{SECTIONS[section]}\n"
        else:
            text += "\n## General\n"
        text += "\n" + header + "\n".join(rows) + "\n"
    return text


def descriptions(source: str) -> dict[str, str]:
    """Return the comment at the end of each setting's line, by the dotted name of the setting.

    Args:
      source: the source code of `config.default`.

    Raises:
      ValueError: if a setting has no comment.
    """
    by_key = {}
    for line in source.splitlines():
        assignment = re.fullmatch(r"    config\.([\w.]+) = (.*)", line)
        if assignment is None or assignment[2] == "ConfigDict()":
            continue
        comment = re.fullmatch(r"(?:[^#\"]|\"[^\"]*\")*  # (.+)", assignment[2])
        if comment is None:
            raise ValueError(f"resnet_jax/config.py does not describe the setting {assignment[1]}")
        by_key[assignment[1]] = comment[1][0].upper() + comment[1][1:]
    return by_key


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}.")
