"""Errors that are the user's to mend."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One sentence that names what is wrong and what to do about it.

    Whoever starts the program prints it on stderr without a traceback and exits with code 2.
    """


class Preempted(BaseException):
    """SIGTERM has come: the machine is taken away. All that was to be saved is saved.

    Like KeyboardInterrupt no `Exception`, so that no library takes it for a failure of its own.
    """


def first_line(error: Exception) -> str:
    """What a library's error says, in brief: the first line of its message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" :")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that no table of `kind` holds, naming the nearest ones that it does."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} {name!r}: did you mean {' or '.join(near)}?")
    return UserError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")
