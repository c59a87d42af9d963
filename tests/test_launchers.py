"""The launchers in examples/launch, with stand-ins for ssh, srun, gcloud and xpk, and for main.py."""

import os
import pathlib
import shlex
import signal
import subprocess
import time

import pytest
import yaml

LAUNCHERS = pathlib.Path(__file__).parents[1] / "examples" / "launch"
MAIN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path("log").open("a").write(os.environ.get("HOST", "") + " " + repr(sys.argv[1:]) + chr(10))
codes = pathlib.Path(os.environ.get("CODES", "codes"))
code, *rest = codes.read_text().split() if codes.exists() else ["0"]
codes.write_text(" ".join(rest or ["0"]))
time.sleep(60 if code == "wait" else 0)
sys.exit(int(code))
"""


@pytest.fixture
def repository(tmp_path):
    """Return a directory with a main.py that logs its flags and ends with the next of the codes in the file `codes`."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    (tmp_path / "main.py").write_text(MAIN, encoding="utf-8")
    (tmp_path / "programs").mkdir()
    return tmp_path


def install(repository, name, script):
    """Put a bash script on the PATH of `start`."""
    path = repository / "programs" / name
    path.write_text("#!/bin/bash\n" + script, encoding="utf-8")
    path.chmod(0o755)


def start(repository, launcher, *arguments, **variables):
    environment = {**os.environ, "PATH": f"{repository / 'programs'}:{os.environ['PATH']}", **variables}
    return subprocess.Popen(["bash", LAUNCHERS / launcher, *arguments], cwd=repository, env=environment)


def log(repository, name="log"):
    path = repository / name
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# It runs the command on this machine. The host is the argument before the last.
SSH = 'HOST="${*: -2:1}" exec bash -c "${*: -1}"'


def test_ssh_starts_a_numbered_process_on_each_host_and_returns_the_largest_code(repository):
    # The second of three hosts has the largest code. Each host has its own file of codes.
    install(repository, "ssh", 'host=${*: -2:1}; HOST=$host CODES=codes_$host exec bash -c "${*: -1}"')
    for host, code in {"ada@a": 3, "b": 134, "c": 75}.items():
        (repository / f"codes_{host}").write_text(str(code), encoding="utf-8")
    process = start(repository, "ssh.sh", "ada@a b c", "--config.freeze=('stem*',)", "--workdir=a b", PORT="9000")
    assert process.wait(timeout=60) == 134
    flags = ["--config.freeze=('stem*',)", "--workdir=a b", "--coordinator=a:9000", "--num_processes=3"]
    assert sorted(log(repository)) == [
        f"{host} {[*flags, f'--process_id={index}']}" for index, host in enumerate(("ada@a", "b", "c"))
    ]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_ssh_passes_a_signal_on_and_waits(repository, signum):
    """The processes of a run are told from others by the coordinator, so the port is one that no other test has."""
    install(repository, "ssh", SSH)
    (repository / "codes").write_text("wait", encoding="utf-8")
    process = start(repository, "ssh.sh", "a", "--workdir=w", PORT=str(os.getpid()))
    wait_for(lambda: log(repository))
    process.send_signal(signum)
    assert process.wait(timeout=60) == 75


def test_ssh_explains_its_arguments(repository):
    assert start(repository, "ssh.sh", "a").wait(timeout=60) == 2


@pytest.mark.parametrize(
    ("code", "restarts", "is_requeued"),
    [(0, 0, False), (2, 0, False), (130, 0, False), (75, 0, True), (134, 49, True), (137, 1, True), (143, 50, False)],
)
def test_slurm_requeues_the_job_after_errors_that_another_attempt_can_fix(repository, code, restarts, is_requeued):
    install(repository, "srun", '[ "$1" = --cpus-per-task=8 ] && "${@:2}"')
    install(repository, "scontrol", "echo $* > requeued")
    (repository / "codes").write_text(str(code), encoding="utf-8")
    variables = {
        "SLURM_JOB_ID": "17",
        "SLURM_CPUS_PER_TASK": "8",
        **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}),
    }
    assert start(repository, "slurm.sbatch", "--workdir=w x", **variables).wait(timeout=60) == code
    assert log(repository) == [" ['--workdir=w x']"]
    assert log(repository, "requeued") == (["requeue 17"] if is_requeued else [])


# The file `states` has the states of the TPU, one per line: each call of `describe` reads the next one, and the last
# one stays. A TPU that is preempted while it trains ends the connection with code 255.
GCLOUD = r"""
echo "$4 ${*:6}" >> calls
case $4 in
  create) printf 'PROVISIONING\nACTIVE\n' > states ;;
  delete) rm states ;;
  describe)
    [ ! -f unreachable ] || { rm unreachable; echo "ERROR: network" >&2; exit 1; }
    [ -f states ] || { echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }
    head -n 1 states
    [ "$(wc -l < states)" = 1 ] || sed -i 1d states ;;
  ssh)
    command=${*: -1}; command=${command#--command=}
    case $command in
      *"pip install"*) [ ! -f slow ] || { touch installing; until [ -f signalled ]; do sleep 0.05; done; } ;;
      *activate*)
         mkdir -p resnet-jax && ln -sfn ../main.py ../.venv resnet-jax
         (bash -c "pkill() { false; }; $command"); code=$?
         case $code in
           8) exit 0 ;; # as gcloud does if it reaches no machine
           9) echo SUSPENDED > states; exit 2 ;; # the code of a machine that is left
         esac
         exit "$code" ;;
      *pkill*) pkill -TERM -f "^python main.py --workdir=$PWD" ;;
    esac ;;
esac
"""
TPU = {
    "PROJECT": "p", "ZONE": "z", "TPU": "resnet", "TYPE": "v5litepod-16", "VERSION": "v2", "REPOSITORY": "r",
    "POLL_SECONDS": "0.01", "OPTIONS": "--spot --labels=a=b",
}  # fmt: skip


def calls(repository):
    return [line.split()[0] for line in log(repository, "calls") if not line.startswith(("describe", " "))]


def test_queued_resource_is_requested_again_when_it_is_preempted_and_deleted_at_the_end(repository):
    install(repository, "gcloud", GCLOUD)
    (repository / "resnet-jax").mkdir()
    (repository / "resnet-jax" / "codes").write_text("9 75 8 0", encoding="utf-8")
    (repository / "unreachable").touch()
    assert start(repository, "queued_resources.sh", "--workdir=a b", **TPU).wait(timeout=60) == 0
    assert log(repository / "resnet-jax") == [" ['--workdir=a b']"] * 4
    attempt = ["ssh", "ssh"]
    assert calls(repository) == ["create", *attempt, "delete", "create", *attempt, *attempt, *attempt, "delete"]
    create = next(line for line in log(repository, "calls") if line.startswith("create"))
    assert create.split()[1:] == [
        "--project=p", "--zone=z", "--accelerator-type=v5litepod-16", "--runtime-version=v2", "--node-id=resnet",
        "--spot", "--labels=a=b",
    ]  # fmt: skip


def test_queued_resource_is_kept_after_an_error(repository):
    install(repository, "gcloud", GCLOUD)
    (repository / "resnet-jax").mkdir()
    (repository / "resnet-jax" / "codes").write_text("2", encoding="utf-8")
    assert start(repository, "queued_resources.sh", "--workdir=w", **TPU, SLICES="2").wait(timeout=60) == 2
    assert calls(repository) == ["create", "ssh", "ssh"]
    assert any("--node-count=2 --node-prefix=resnet" in line for line in log(repository, "calls"))


def test_queued_resource_passes_sigterm_on_and_waits(repository):
    install(repository, "gcloud", GCLOUD)
    (repository / "resnet-jax").mkdir()
    (repository / "resnet-jax" / "codes").write_text("wait", encoding="utf-8")
    process = start(repository, "queued_resources.sh", f"--workdir={repository}", **TPU)
    wait_for(lambda: log(repository / "resnet-jax"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert calls(repository) == ["create", "ssh", "ssh", "ssh"]


def test_queued_resource_does_not_train_after_a_signal_during_the_installation(repository):
    install(repository, "gcloud", GCLOUD)
    (repository / "slow").touch()
    process = start(repository, "queued_resources.sh", f"--workdir={repository}", **TPU)
    wait_for((repository / "installing").exists)
    process.send_signal(signal.SIGTERM)
    (repository / "signalled").touch()
    assert process.wait(timeout=60) == 75
    assert not (repository / "resnet-jax").exists()


def test_queued_resource_that_google_cannot_provide_is_an_error(repository):
    install(repository, "gcloud", GCLOUD.replace("PROVISIONING", "FAILED"))
    assert start(repository, "queued_resources.sh", "--workdir=w", **TPU).wait(timeout=60) == 1
    assert calls(repository) == ["create"]


def test_xpk_starts_the_run_with_its_flags(repository):
    install(repository, "xpk", 'printf "%s\\0" "$@" > arguments')
    variables = {"PROJECT": "p", "ZONE": "z", "CLUSTER": "c", "IMAGE": "i", "OPTIONS": "--spot --dry-run"}
    process = start(repository, "xpk.sh", "v5litepod-16", "2", "--workdir=a b", "--config=c", **variables)
    assert process.wait(timeout=60) == 0
    arguments = (repository / "arguments").read_text(encoding="utf-8").rstrip("\0").split("\0")
    assert {"--tpu-type=v5litepod-16", "--num-slices=2", "--docker-image=i", "--spot", "--dry-run"} < set(arguments)
    command = next(argument for argument in arguments if argument.startswith("--command="))
    assert shlex.split(command.removeprefix("--command=exec ")) == ["python", "main.py", "--workdir=a b", "--config=c"]


def test_skypilot_connects_its_nodes(repository):
    task = yaml.safe_load((LAUNCHERS / "skypilot.yaml").read_text(encoding="utf-8"))
    assert task["file_mounts"] == {"/data": "${DATA}"}
    variables = {
        "FLAGS": "--config=c --workdir=w",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
    }
    subprocess.run(["bash", "-c", task["run"]], cwd=repository, env={**os.environ, **variables}, check=True)
    flags = ["--config=c", "--workdir=w", "--coordinator=10.0.0.1:8476", "--num_processes=2", "--process_id=1"]
    assert log(repository) == [f" {flags}"]
