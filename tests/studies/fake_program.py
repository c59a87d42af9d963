"""A stand-in for main.py that writes a run directory without training.

The validation top-1 of an epoch is a function of the settings: it is highest for a learning rate of 0.1. The run with
seed 13 fails. Each epoch takes FAKE_EPOCH_SECONDS. The run
FAKE_RUN_TO_STOP waits after its first epoch.
"""

import json
import math
import os
import pathlib
import signal
import sys
import time

from resnet_jax.cli.flags import define_config, flags
from resnet_jax.config import to_json
from resnet_jax.errors import ExitCode


def main(argv: list[str]) -> int:
    values = flags.FlagValues()
    holder = define_config(flag_values=values, argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(argv)
    config, workdir = holder.value, pathlib.Path(values.workdir)

    def stop(signum, frame):
        (workdir / "stopped").touch()
        sys.exit(ExitCode.RESUMABLE)

    signal.signal(signal.SIGTERM, stop)
    if config.seed == 13:
        print("error: this seed brings bad luck. Choose another.", file=sys.stderr)
        return ExitCode.USER_ERROR
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(to_json(config))
    metrics = workdir / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    score = math.exp(-abs(math.log10(config.optimizer.learning_rate / 0.1))) - 0.01 * config.seed
    for epoch in range(done + 1, config.num_epochs + 1):
        time.sleep(float(os.environ.get("FAKE_EPOCH_SECONDS", "0")))
        validation = {"top1": score * epoch / config.num_epochs, "loss": 1 - score, "examples": 10}
        with metrics.open("a") as file:
            file.write(json.dumps({"step": epoch, **{f"validation/{k}": v for k, v in validation.items()}}) + "\n")
        print(f"epoch {epoch}/{config.num_epochs}  validation", flush=True)
        if workdir.name == os.environ.get("FAKE_RUN_TO_STOP"):
            time.sleep(60)  # until it is stopped
    is_tested = config.dataset.test_split != "none"
    result = {"validation": validation, "test": validation if is_tested else None, "test_tta": None, "seconds": 1.0}
    (workdir / "result.json").write_text(json.dumps(result))
    return ExitCode.DONE


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(ExitCode.INTERRUPTED))
    sys.exit(main([argument for argument in sys.argv if argument != "train"]))
