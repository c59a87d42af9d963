"""Check that Flower trains the same model as our own simulation, in its simulation and as real processes with TLS.

    pip install -r requirements.txt && pip install ".[flower]"
    python examples/flower/verify.py

The images of the two clients are in two directories. Only our simulation sees both, through links. The real processes
are a SuperLink (the server) and two SuperNodes (the clients) on this machine; each SuperNode sees its own directory.
The models after three rounds must agree to 1e-5.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import trustme
from PIL import Image
from safetensors.numpy import load_file

APP = pathlib.Path(__file__).parent
ROOT = APP.parents[1]
BIN = pathlib.Path(sys.executable).parent
IMAGES = {"site_a/north": {"dark": 40, "light": 24}, "site_b/south": {"dark": 16, "light": 32}}
CLASSES = {"dark": 60, "light": 190}  # brightness by class
TOLERANCE = 1e-5
PORT = 9191  # of the SuperLink; the SuperNodes have the next ones


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        write_images(work)
        environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # Flower starts programs of its own.
            "PYTHONPATH": str(ROOT),
            "FLWR_HOME": str(work / "flwr"),
            "JAX_PLATFORMS": "cpu",
        }
        expected = train_in_our_simulation(work, environment)
        for name, train in (("simulation", train_in_flower_simulation), ("deployment", train_on_real_processes)):
            started = time.monotonic()
            actual = train(work, environment)
            if actual.keys() != expected.keys():
                sys.exit(f"The models have different parameters: {sorted(actual.keys() ^ expected.keys())}.")
            difference = max(float(np.abs(actual[key] - expected[key]).max()) for key in expected)
            seconds = time.monotonic() - started
            print(f"Flower's {name}: the largest difference of a parameter is {difference:.1e} ({seconds:.0f} s).")
            if difference > TOLERANCE:
                sys.exit(f"The models differ by more than {TOLERANCE}.")


def write_images(work: pathlib.Path) -> None:
    """Write the images of both clients, and the links that only our simulation uses."""
    random = np.random.default_rng(0)
    for client, counts in IMAGES.items():
        for name, count in counts.items():
            (work / client / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(random.normal(CLASSES[name], 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(work / client / name / f"{number}.png")
        link = work / "both" / pathlib.Path(client).name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(work / client)


def train_in_our_simulation(work: pathlib.Path, environment: dict[str, str]) -> dict[str, np.ndarray]:
    run, weights = work / "run", work / "ours.safetensors"
    recipe = ("--config", APP / "resnet_flower" / "recipe.py", f"--config.dataset.name=clients:{work}/both")
    for command in (("federate", *recipe), ("export", f"--to={weights}")):
        program = [sys.executable, ROOT / "main.py", *command, f"--workdir={run}", "--notune_cpu"]
        subprocess.run(program, env=environment, check=True)
    return load_file(weights)


def train_in_flower_simulation(work: pathlib.Path, environment: dict[str, str]) -> dict[str, np.ndarray]:
    weights = work / "simulation.safetensors"
    run_flower(environment, "local", f'save-to="{weights}" simulated-images="{work}/both"')
    return load_file(weights)


def train_on_real_processes(work: pathlib.Path, environment: dict[str, str]) -> dict[str, np.ndarray]:
    weights = work / "deployment.safetensors"
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(work / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(work / "server.key"))
    certificate.cert_chain_pems[0].write_to_path(str(work / "server.pem"))
    with (work / "flwr" / "config.toml").open("a", encoding="utf-8") as file:
        file.write(f'\n[superlink.real]\naddress = "127.0.0.1:{PORT}"\nroot-certificates = "{work}/ca.pem"\n')
    tls = [f"--ssl-ca-certfile={work}/ca.pem", f"--ssl-certfile={work}/server.pem", f"--ssl-keyfile={work}/server.key"]
    with contextlib.ExitStack() as processes:
        processes.enter_context(running([BIN / "flower-superlink", f"--port={PORT}", *tls], environment))
        for number, client in enumerate(IMAGES):
            node = [
                BIN / "flower-supernode",
                f"--root-certificates={work}/ca.pem",
                f"--superlink=127.0.0.1:{PORT}",
                f"--port={PORT + 1 + number}",
                f'--node-config=images="{work}/{client}" client={number}',
            ]
            processes.enter_context(running(node, environment))
        wait_for_port(PORT)
        run_flower(environment, "real", f'save-to="{weights}"')
    return load_file(weights)


@contextlib.contextmanager
def running(command: list, environment: dict[str, str]) -> Iterator[None]:
    """Run a program until the context ends."""
    process = subprocess.Popen(command, env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Wait until a program on this machine accepts connections."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"The SuperLink does not listen at port {port} after {seconds:.0f} seconds.")
            time.sleep(0.2)


def run_flower(environment: dict[str, str], superlink: str, settings: str) -> None:
    """Run the app in Flower and wait for its end."""
    command = [BIN / "flwr", "run", APP, superlink, "--stream", "--run-config", settings]
    subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
