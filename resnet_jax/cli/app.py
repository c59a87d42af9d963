"""What all verbs share: which ones there are, parsing of flags, and errors told in one sentence.

A verb is a module with absl flags and a function `run`, which returns an exit code. One that takes more than flags
says in `ARGUMENTS` what they are, and its `run` is given their list. Only the module of the verb that is asked for is
imported, so two verbs may define flags of the same name.

Exit codes: 0 done, 1 some inputs failed or would spoil a run, 2 the user must change something, 75 stopped by SIGTERM
or for another process has ended, 130 stopped by Ctrl-C; after these the same command goes on.
"""

import errno
import pathlib
import re
import sys
import traceback
from types import ModuleType

from absl import app, flags

from resnet_jax import config as settings
from resnet_jax import terminal
from resnet_jax.errors import Preempted, UserError, first_line, unknown_name
from resnet_jax.runtime import cpu_tuning, library_messages

TUNE_CPU = flags.DEFINE_bool(
    "tune_cpu", True, "On a CPU, train quicker, with more memory: see resnet_jax/runtime/cpu_tuning.py."
)
DONE, SOME_FAILED, USER_ERROR, GO_ON, INTERRUPTED = 0, 1, 2, 75, 130
VERBS = {
    "train": "train a network, or go on with the run in the workdir (the verb if none is named)",
    "benchmark": "measure how fast a recipe trains and what holds it up; or tell what its step takes, on TPUs too",
    "convert": "turn a TFDS set prepared as tfrecord into array_record files, which training reads",
    "debug_nan": "take the step apart at which the loss of a run was not finite",
    "evaluate": "score runs, or published weights, on the test split or other data, and compare them",
    "export": "write the weights of a run, or published ones, as .safetensors for PyTorch and others",
    "inspect": "look at every picture of a data set, before training",
    "models": "list the models: parameters, multiply-adds, paper, published accuracy",
    "predict": "tell what is in pictures of your own, or which pictures of a folder they are like",
    "report": "write a page on runs: figures, curves, mistakes; several are compared",
    "verify_resume": "prove that a run that is interrupted goes on bit for bit as if nothing had happened",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_ERRORS = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def pop_verb(argv: list[str]) -> str:
    """Takes the verb off `argv`; exits where it is unknown."""
    if len(argv) < 2 or argv[1].startswith("-"):
        return "train"
    verb = argv.pop(1)
    if verb not in VERBS:
        _exit_with(unknown_name("verb", verb, VERBS))
    return verb


def start(verb: ModuleType) -> None:
    """Parses the flags and exits with what the verb's `run` returns, or with the code of its error."""
    arguments = getattr(verb, "ARGUMENTS", None)

    def main(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            library_messages.silence()
        if TUNE_CPU.value:
            cpu_tuning.tune()
        # Imports JAX, which those who mistyped a flag need not wait for.
        from resnet_jax.runtime import cluster, compilation_cache

        compilation_cache.use()
        try:
            exit_code = verb.run(argv[1:]) if arguments else verb.run()
            sys.stdout.flush()
            return exit_code
        except KeyboardInterrupt:
            return INTERRUPTED
        except Preempted:
            return GO_ON
        except Exception as error:
            if isinstance(error, BrokenPipeError) and terminal.discard_closed_stdout():
                return DONE
            return cluster.leave(_report(error, cluster.lost_another(error)))

    app.run(main, flags_parser=lambda argv: _parse(argv, arguments))


def _parse(argv: list[str], arguments: str | None) -> list[str]:
    if "--help" in argv or "-h" in argv:
        _print_help(arguments)
        sys.exit(DONE)
    try:
        _check_recipe(argv)
        _check_overrides(argv)
        rest = flags.FLAGS(argv)
        if len(rest) > 1 and not arguments:
            raise UserError(f"unexpected argument {rest[1]!r}: a verb comes first, settings look like --config.seed=1")
        return rest
    except UserError as error:
        _exit_with(error)
    except Exception as error:
        # Of a flag, or of the recipe: what its author did wrong is said in the words of Python.
        _exit_with(UserError(_one_sentence(error)))


def _check_recipe(argv: list[str]) -> None:
    """Refuses a recipe that is not there, which `config_flags` would report obscurely."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        recipe = re.fullmatch(r"--?config(=(?P<value>.*))?", argument)
        if recipe:
            path = (recipe["value"] or following).partition(":")[0]
            if not pathlib.Path(path).is_file():
                raise UserError(f"there is no config file {path!r}: the recipes are in configs/")


def _check_overrides(argv: list[str]) -> None:
    """Refuses settings that do not exist, naming the nearest that do."""
    known = settings.leaves(settings.default())
    for argument in argv:
        override = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if override and override[1] not in known:
            raise unknown_name("setting", override[1], known)


def _one_sentence(error: Exception) -> str:
    """An error of flag parsing, without the traceback that `config_flags` wraps into some."""
    text = str(error)
    wrong_type = re.match(r"flag (--config\.([\w.]+)=.*?): ", text)
    if wrong_type:
        config = settings.default()
        section, _, name = wrong_type[2].rpartition(".")
        kind = (settings.get(config, section) if section else config).get_type(name).__name__
        return f"{wrong_type[1]} is of the wrong type: {wrong_type[2]} is of type {kind}"
    missing = re.match(r"flag --(\w+)=None: ", text)
    if missing:
        return f"--{missing[1]} is missing"
    if "Traceback" in text:
        text = text.strip().splitlines()[-1].partition("Error: ")[2] or text.strip().splitlines()[-1]
    return " ".join(text.split())


def _report(error: Exception, lost_another: bool) -> int:
    """Says what went wrong, and returns the exit code."""
    if lost_another:
        sentence = (
            f"another process of this run has ended ({first_line(error)}): it says why; the same command, in all "
            "processes, goes on from the last checkpoint"
        )
        _print_error(UserError(sentence))
        return GO_ON
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        place = error.filename or "a file of the run"
        remedy = "make room there" if error.errno in FULL else "see to its rights and its disk, or choose another place"
        error = UserError(f"{error.strerror}, at {place}: {remedy}, and run the same command again")
    if type(error).__module__.startswith("tensorflow.") and hasattr(error, "error_code"):  # No OSErrors, as Python's.
        error = UserError(
            f"TensorFlow cannot read or write a file ({first_line(error)}): see to room, rights and network there, and "
            "run the same command again"
        )
    if isinstance(error, UserError):
        _print_error(error)
        return USER_ERROR
    traceback.print_exception(error)
    return SOME_FAILED


def _print_help(arguments: str | None) -> None:
    print("usage: python main.py [VERB] [--flags]\n\nverbs:")
    for verb, purpose in VERBS.items():
        print(f"  {verb:15s}{purpose}")
    if arguments:
        print(f"\nThis verb takes {arguments}.")
    print("\nflags of this verb:")
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("resnet_jax."):
            for flag in defined:
                print(f"  --{flag.name:16s}{flag.help}")
    print("\nBeside --config all settings are flags, such as --config.batch_size=256; resnet_jax/config.py lists them.")


def _exit_with(error: UserError):
    _print_error(error)
    sys.exit(USER_ERROR)


def _print_error(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)
