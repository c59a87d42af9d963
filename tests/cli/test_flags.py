import json
import subprocess
import sys

from resnet_jax import config as settings
from tests.conftest import ROOT

# Prints the settings that the flags of `train` describe.
PRINT_SETTINGS = """\
import json, sys
from absl import flags
from resnet_jax import config
from resnet_jax.cli import train
flags.FLAGS(sys.argv)
print(json.dumps(config.leaves(train.CONFIG.value)))
"""
DEFAULTS = settings.leaves(settings.default())


def parse(recipe, overrides):
    """Return the settings by name, after the flags that set each of `overrides` to its value."""
    arguments = ["--workdir=w", f"--config={recipe}", *(f"--config.{key}={value}" for key, value in overrides)]
    command = [sys.executable, "-c", PRINT_SETTINGS, *arguments]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_none_unsets_every_setting():
    """The recipe sets several of the settings whose default is unset. Of the others, `config_check` refuses None."""
    parsed = parse("configs/imagenet.py", [(key, "None") for key in DEFAULTS])
    assert parsed == dict.fromkeys(DEFAULTS)


def test_last_of_several_overrides_wins_unless_it_is_a_tuple():
    overrides = [("ema_decay", None), ("ema_decay", 0.9), ("seed", 3), ("seed", 4), ("freeze", "a*"), ("freeze", "b*")]
    parsed = parse("configs/digits.py", overrides)
    assert (parsed["ema_decay"], parsed["seed"], parsed["freeze"]) == (0.9, 4, ["a*", "b*"])
