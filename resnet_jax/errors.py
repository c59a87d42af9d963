"""Errors that the user can fix, and the exit codes of the program."""

import contextlib
import difflib
import enum
import pathlib
import sys
from collections.abc import Iterable, Iterator


class ExitCode(enum.IntEnum):
    """The exit code of a command."""

    DONE = 0
    SOME_FAILED = 1  # some inputs failed, a check found a problem, or the program has a bug and prints a traceback
    USER_ERROR = 2
    RESUMABLE = 75  # stopped by SIGTERM or SIGHUP, or because another process ended; the same command resumes the run
    INTERRUPTED = 130  # stopped by Ctrl-C; the same command resumes the run
    OUTPUT_CLOSED = 141  # the reader of stdout ended first; as for a program that SIGPIPE ends


class UserError(Exception):
    """An error that the user can fix: the message says what is wrong and what to do about it.

    The command line prints the message on stderr, without a traceback, and exits with code 2.
    """


class OutputClosed(Exception):
    """The program that reads stdout, such as `head`, has ended before the whole result was printed."""


class Preempted(BaseException):
    """SIGTERM or SIGHUP has arrived, for example because the machine is being preempted or the terminal was closed.

    The training loop saves before it raises this exception. Like `KeyboardInterrupt`, it is not an `Exception`, so that
    no library catches it as an ordinary error.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if the message is empty.

    Example:
      >>> first_line(ValueError("no such file:\\nfurther details"))
      'no such file'
      >>> first_line(KeyError())
      'KeyError'
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" :")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a `name` that is not one of the `known` names. The message suggests the nearest ones.

    Args:
      kind: what the name stands for, such as "model".
      name: the unknown name.
      known: all valid names.

    Example:
      >>> print(unknown_name("model", "resnet19", ["resnet18", "vgg"]))
      unknown model 'resnet19'. Did you mean resnet18?
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if nearest:
        return UserError(f"unknown {kind} {name!r}. Did you mean {' or '.join(nearest)}?")
    return UserError(f"unknown {kind} {name!r}. Choose one of {', '.join(known)}.")


def missing_extra(feature: str, package: str, extra: str) -> UserError:
    """Return the error for an optional package that is not installed.

    It suggests an installation from a checkout, because the name `resnet-jax` on PyPI belongs to another project.

    Args:
      feature: what needs the package, such as "the report".
      package: the missing package, such as "plotly".
      extra: the extra in `pyproject.toml` that installs it, such as "report".

    Example:
      >>> print(missing_extra("the report", "plotly", "report"))
      the report needs plotly, which is not installed. In a checkout of this project, run: pip install ".[report]"
    """
    return UserError(
        f"{feature} needs {package}, which is not installed. "
        f'In a checkout of this project, run: pip install ".[{extra}]"'
    )


@contextlib.contextmanager
def needs_extra(feature: str, package: str, extra: str) -> Iterator[None]:
    """Turn a failed import of an optional package into `missing_extra`. Only imports belong inside the context.

    Args:
      feature, package, extra: see `missing_extra`.

    Raises:
      UserError: if an import within the context fails.

    Example:
      >>> with needs_extra("the arithmetic", "math", "dev"):
      ...     import math
    """
    try:
        yield
    except ImportError as error:
        raise missing_extra(feature, package, extra) from error


def program() -> str:
    """Return how the user started the program, such as "python main.py", for messages that suggest a command."""
    name = pathlib.Path(sys.argv[0]).name
    return name if name.startswith("resnet-jax") else "python main.py"
