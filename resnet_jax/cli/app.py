"""The command-line program: find the command, parse its flags, run it, and report errors briefly.

A command is a module of this package that defines absl flags and a function `run`, which returns an `ExitCode`. A
command that takes positional arguments describes them in `ARGUMENTS`, and its `run` receives them as a list. Only the
module of the command that runs is imported, so several commands can define a flag of the same name.
"""

import difflib
import errno
import importlib
import re
import sys
import traceback
from types import ModuleType
from typing import NoReturn

from absl import app as absl_app
from absl import flags

import resnet_jax
from resnet_jax import config as settings
from resnet_jax import terminal
from resnet_jax.errors import ExitCode, OutputClosed, Preempted, UserError, first_line, program, unknown_name
from resnet_jax.runtime import cpu_tuning, library_messages

TUNE_CPU = flags.DEFINE_bool(
    "tune_cpu", True, "On a CPU, train faster but use more memory; see resnet_jax/runtime/cpu_tuning.py."
)
# In the order in which a new user needs them.
COMMANDS = {
    "train": "train a model, or resume the run in the workdir; the default command",
    "inspect": "check every image of a dataset before training",
    "evaluate": "score runs or published weights on the test split or other data, and compare them",
    "predict": "classify images, or find the most similar images in a folder",
    "explain": "show which pixels of an image are important for a class, and how far that can be trusted",
    "report": "write an HTML page with the metrics, curves and mistakes of one or several runs",
    "export": "write a model as ONNX, StableHLO, TensorFlow or TFLite, or its weights as .safetensors",
    "models": "list the models with parameters, multiply-adds, paper and published accuracy",
    "probe": "measure what the features of a pre-trained or any other model are worth",
    "federate": "train on clients that keep their data, simulated on this machine",
    "repeat": "train a recipe with several seeds or folds, and report the mean and its uncertainty",
    "sweep": "train a recipe with different settings, and compare the runs on validation",
    "find_lr": "find a range of learning rates for a recipe",
    "benchmark": "measure how fast a recipe trains and what limits it, or analyze its compiled step",
    "decode": "decode the images of a dataset once, so that training reads them faster",
    "convert": "convert a TFDS dataset from tfrecord to array_record files, which training reads",
    "verify_resume": "check that an interrupted and resumed run equals an uninterrupted one bit for bit",
    "debug_nan": "find where in a step the first non-finite value of a run appeared",
}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_ERRORS = (*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
RARE_FLAGS = ("coordinator", "num_processes", "process_id", "restarts", "tune_cpu")  # listed last by --help


@terminal.standard_streams()
def main() -> NoReturn:
    """Run the command named in `sys.argv` and exit with its exit code."""
    if "--version" in sys.argv[1:]:
        # We do not read the version from the metadata of an installed `resnet-jax`, because on PyPI this name belongs
        # to another project.
        _print_unless_closed(f"resnet-jax {resnet_jax.__version__}")
        sys.exit(ExitCode.DONE)
    without_arguments = len(sys.argv) == 1
    name = _pop_command(sys.argv)
    command = importlib.import_module(f"resnet_jax.cli.{name}")
    if without_arguments:
        _print_help(name, command)
        sys.exit(ExitCode.USER_ERROR)
    if "--help" in sys.argv or "-h" in sys.argv:
        _print_help(name, command)
        sys.exit(ExitCode.DONE)
    absl_app.run(
        lambda argv: _run(command, argv[1:]),
        flags_parser=lambda argv: _parse_flags(argv, takes_arguments=hasattr(command, "ARGUMENTS")),
    )


def _pop_command(argv: list[str]) -> str:
    """Remove the name of the command from `argv` and return it. Exit with an error if there is no such command."""
    if len(argv) < 2 or argv[1].startswith("-"):
        return "train"
    name = argv.pop(1)
    if name.partition(":")[0].endswith(".py"):
        _exit_with(UserError(f"unknown command {name!r}. Did you mean --config={name}?"))
    if name not in COMMANDS:
        _exit_with(unknown_name("command", name, COMMANDS))
    return name


def _run(command: ModuleType, arguments: list[str]) -> int:
    """Run a command and return its exit code, or the exit code of its error."""
    if not flags.FLAGS["verbosity"].present:
        library_messages.silence()
    if TUNE_CPU.value:
        cpu_tuning.tune()
    try:
        # These modules import JAX, which takes a while. They come after the parsing of the flags, so that a mistyped
        # flag is reported at once.
        from resnet_jax.runtime import cluster, compilation_cache
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    compilation_cache.enable()
    try:
        return command.run(arguments) if hasattr(command, "ARGUMENTS") else command.run()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Preempted:
        return ExitCode.RESUMABLE
    except OutputClosed:
        return cluster.leave(ExitCode.OUTPUT_CLOSED)
    except Exception as error:
        return cluster.leave(_report(error, cluster.is_process_loss(error)))


# --- Flags -----------------------------------------------------------------------------------------------------------


def _parse_flags(argv: list[str], takes_arguments: bool) -> list[str]:
    """Parse the flags and return the remaining arguments. Exit with a short error on any mistake."""
    try:
        _check_overrides(argv)
        remaining = flags.FLAGS(argv)
        if len(remaining) > 1 and not takes_arguments:
            raise UserError(
                f"unexpected argument {remaining[1]!r}. The command must come first, and settings look like "
                "--config.seed=1."
            )
        _check_empty_values(remaining)
        return remaining
    except UserError as error:
        _exit_with(error)
    except Exception as error:  # absl and ml_collections raise errors of many types.
        _exit_with(_flag_error(error))


def _check_overrides(argv: list[str]) -> None:
    """Raise `UserError` for a setting that does not exist."""
    known = settings.leaves(settings.default())
    for argument in argv:
        override = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if override and override[1] not in known:
            raise unknown_name("setting", override[1], known)


def _check_empty_values(arguments: list[str]) -> None:
    """Raise `UserError` for a flag or an argument that is empty or blank, as an unset shell variable leaves it."""
    settings_by_flag = {f"config.{name}": value for name, value in settings.leaves(settings.default()).items()}
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        is_empty = isinstance(flag.value, str) and not flag.value.strip()
        if flag.present and is_empty and settings_by_flag.get(name, flag.default) != "":
            raise UserError(f"--{name} is empty. If its value is a shell variable, set the variable.")
    if not all(argument.strip() for argument in arguments):
        raise UserError("one of the arguments is empty. If it is a shell variable, set the variable.")


def _flag_error(error: Exception) -> UserError:
    """Return an error of absl or ml_collections in our own words, if the original words are hard to read."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown_flag(error.flagname)
    text = str(error)
    wrong_type = re.match(r"flag --config\.([\w.]+)=(.*?): ", text)
    if wrong_type:
        setting, value = wrong_type.groups()
        kind = settings.get_type(settings.default(), setting).__name__
        return UserError(f"--config.{setting} must be of type {kind}, but {value!r} was given")
    missing = re.match(r"flag --(\w+)=None: ", text)
    if missing:
        return UserError(f"--{missing[1]} is missing")
    misplaced = re.match(r"Found --(config\.[\w.]+)", text)
    if misplaced:
        return _override_without_recipe(misplaced[1])
    return UserError(" ".join(text.split()))


def _unknown_flag(name: str) -> UserError:
    """Return the error for an unknown flag. It suggests settings too, which are often given without "config."."""
    suggestions = {flag: [f"--{flag}"] for flag in flags.FLAGS}
    if "config" in flags.FLAGS:
        if name.startswith("config."):
            return _override_without_recipe(name)
        for key in settings.leaves(settings.default()):
            for short_name in {key, key.removesuffix(".name").rpartition(".")[2]}:
                suggestions.setdefault(short_name, []).append(f"--config.{key}")
    nearest = difflib.get_close_matches(name.replace("-", "_"), suggestions, n=1)
    if not nearest:
        return UserError(f"unknown flag --{name}. --help lists the flags.")
    return UserError(f"unknown flag --{name}. Did you mean {' or '.join(suggestions[nearest[0]])}?")


def _override_without_recipe(name: str) -> UserError:
    return UserError(f"--{name} changes a setting of the recipe. Give --config=RECIPE before it.")


# --- Help ------------------------------------------------------------------------------------------------------------


def _print_help(name: str, command: ModuleType) -> None:
    """Print the usage of the program and the flags of a command."""
    _print_unless_closed(_help_text(name, command))


def _help_text(name: str, command: ModuleType) -> str:
    lines = [
        f"""\
Train, evaluate and export ResNets in JAX.

usage: {program()} [COMMAND] [--flags]

  {program()} --config=configs/digits.py --workdir=/tmp/digits    # train; run it again to resume
  {program()} predict --workdir=/tmp/digits IMAGES                # classify images

commands:"""
    ]
    lines += [f"  {other_name:15s}{purpose}" for other_name, purpose in COMMANDS.items()]
    if hasattr(command, "ARGUMENTS"):
        lines.append(f"\narguments of {name}: {command.ARGUMENTS}")
    lines.append(f"\nflags of {name}:")
    by_module = flags.FLAGS.flags_by_module_dict()
    modules = ("resnet_jax.cli.flags", command.__name__, __name__)
    defined = [flag for module in modules for flag in by_module.get(module, [])]
    defined.sort(key=lambda flag: flag.name in RARE_FLAGS)
    width = 2 + max(len(flag.name) for flag in defined)
    lines += [f"  --{flag.name:{width}s}{flag.help}" for flag in defined]
    if any(flag.name == "config" for flag in defined):
        lines.append("\nEvery setting is a flag too, such as --config.batch_size=256. docs/settings.md lists them.")
    lines.append(f"\n{program()} COMMAND --help lists the flags of another command; --version prints the version.")
    return "\n".join(lines)


def _print_unless_closed(text: str) -> None:
    """Print a text. It does not matter if its reader, such as `head`, has ended before."""
    try:
        terminal.print_result(text)
    except OutputClosed:
        pass
    except UserError as error:
        _exit_with(error)


# --- Errors ----------------------------------------------------------------------------------------------------------


def _report(error: Exception, is_process_loss: bool) -> int:
    """Print what went wrong, and return the exit code."""
    if is_process_loss:
        _print_error(
            f"another process of this run has ended ({first_line(error)}). Its own output says why. Run the same "
            "command again in all processes to resume from the last checkpoint."
        )
        return ExitCode.RESUMABLE
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        remedy = "Free some space" if error.errno in DISK_FULL else "Check its permissions and its disk"
        _print_error(
            f"cannot read or write {error.filename or 'a file of the run'} ({error.strerror}). {remedy}, then run the "
            "same command again."
        )
        return ExitCode.USER_ERROR
    # TensorFlow's file errors are not OSErrors.
    if type(error).__module__.startswith("tensorflow.") and hasattr(error, "error_code"):
        _print_error(
            f"TensorFlow cannot read or write a file ({first_line(error)}). Check the free space, permissions "
            "and network connection at that location, then run the same command again."
        )
        return ExitCode.USER_ERROR
    if isinstance(error, UserError):
        _print_error(error)
        return ExitCode.USER_ERROR
    terminal.print_if_possible("".join(traceback.format_exception(error)), sys.stderr, end="")
    return ExitCode.SOME_FAILED


def _exit_with(error: UserError) -> NoReturn:
    _print_error(error)
    sys.exit(ExitCode.USER_ERROR)


def _print_error(message: UserError | str) -> None:
    terminal.print_if_possible(f"error: {message}", sys.stderr)
