"""The command line in a checkout: `python main.py [COMMAND] [--flags]`. The default command is `train`.

python main.py --config=configs/digits.py --workdir=/tmp/digits
python main.py evaluate --workdir=/tmp/digits

`pip install .` installs the same program as the command `resnet-jax`.
"""

from resnet_jax.cli import app

if __name__ == "__main__":
    app.main()
