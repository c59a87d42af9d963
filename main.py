"""The command line: `python main.py [VERB] --flags`; without a verb it trains.

python main.py --config=configs/digits.py --workdir=/tmp/digits
python main.py evaluate --workdir=/tmp/digits
"""

import importlib
import sys

from resnet_jax.verbs import command_line

if __name__ == "__main__":
    verb = command_line.pop_verb(sys.argv)
    command_line.start(importlib.import_module(f"resnet_jax.verbs.{verb}"))
