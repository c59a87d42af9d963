"""Parts of a network that training leaves as they are, by patterns of their names."""

import fnmatch
from collections.abc import Callable, Iterable

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UserError


class Freezing:
    """Which parameters are frozen: those whose names, such as "stage1_block1/conv1/kernel", match one of `patterns`.

    Frozen parameters get no gradient and no optimizer state, and the BatchNorms among them normalise with their running
    statistics in training too, which stay as they are. A BatchNorm is frozen if all its parameters are.
    """

    def __init__(self, patterns: Iterable[str]):
        self._patterns = tuple(patterns)

    def check(self, params: dict) -> None:
        """Raises `UserError` for a pattern that fits nothing, or if nothing is left to train."""
        names = ["/".join(path) for path in flatten_dict(params)]
        for pattern in self._patterns:
            if not fnmatch.filter(names, pattern):
                parts = ", ".join(dict.fromkeys(name.partition("/")[0] for name in names))
                raise UserError(f"freeze: nothing fits {pattern!r}: the parts are {parts}, and * stands for anything")
        if all(map(self._is_frozen, names)):
            raise UserError(f"freeze={self._patterns} leaves nothing to train: spare the head, for example")

    def split(self, params: dict) -> tuple[dict, dict]:
        """What is trained and what is frozen, each a tree with only its own leaves."""
        flat = flatten_dict(params)
        frozen = {path for path in flat if self._is_frozen("/".join(path))}
        return (
            unflatten_dict({path: leaf for path, leaf in flat.items() if path not in frozen}),
            unflatten_dict({path: flat[path] for path in frozen}),
        )

    def norms(self) -> Callable:
        """A method interceptor of Linen under which frozen BatchNorms are those of evaluation."""

        def intercept(call: Callable, arguments: tuple, settings: dict, context: nn.module.InterceptorContext):
            names = ["/".join((*context.module.path, name)) for name in ("scale", "bias")]
            if isinstance(context.module, nn.BatchNorm) and all(map(self._is_frozen, names)):
                settings = {**settings, "use_running_average": True}
            return call(*arguments, **settings)

        return intercept

    def _is_frozen(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)


NOTHING_FROZEN = Freezing(())


def merge(one: dict, other: dict) -> dict:
    """The tree with the leaves of both."""
    return unflatten_dict(flatten_dict(one) | flatten_dict(other))
