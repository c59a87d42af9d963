"""The command line: `python main.py [VERB] --flags`; without a verb it trains.

python main.py --config=configs/digits.py --workdir=/tmp/digits
python main.py evaluate --workdir=/tmp/digits
"""

import importlib
import sys

from resnet_jax.cli import app

if __name__ == "__main__":
    verb = app.pop_verb(sys.argv)
    app.start(importlib.import_module(f"resnet_jax.cli.{verb}"))
