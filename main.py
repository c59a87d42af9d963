"""The command line in a checkout: `python main.py [COMMAND] [--flags]`. Without a command it trains.

python main.py --config=configs/digits.py --workdir=/tmp/digits
python main.py evaluate --workdir=/tmp/digits

After `pip install .` the same program is there as `resnet-jax`.
"""

from resnet_jax.cli import app

if __name__ == "__main__":
    app.main()
