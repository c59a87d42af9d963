"""Parameters that training leaves unchanged, selected by patterns of their names."""

import fnmatch
from collections.abc import Callable, Iterable

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UserError


class Freezing:
    """Selects the frozen parameters: those whose name, such as "stage1_block1/conv1/kernel", matches a pattern.

    Frozen parameters have no gradient and no optimizer state. A BatchNorm whose parameters are all frozen normalizes
    with its running statistics in training too, and its running statistics do not change.

    Args:
      patterns: shell-style patterns (`fnmatch`), in which * also matches "/".

    Example:
      >>> freezing = Freezing(["stem*"])
      >>> trainable, frozen = freezing.split({"stem_conv": {"kernel": 1}, "head": {"kernel": 2}})
      >>> trainable
      {'head': {'kernel': 2}}
      >>> frozen
      {'stem_conv': {'kernel': 1}}
    """

    def __init__(self, patterns: Iterable[str]):
        self._patterns = tuple(patterns)

    def check(self, params: dict) -> None:
        """Raise `UserError` if a pattern matches no parameter, or if no parameter is left to train."""
        check_patterns("freeze", self._patterns, params)
        names = ["/".join(path) for path in flatten_dict(params)]
        if all(map(self._is_frozen, names)):
            raise UserError(
                f"freeze={self._patterns} leaves nothing to train. Use patterns that exclude the head, for example."
            )

    def split(self, params: dict) -> tuple[dict, dict]:
        """Return (trainable, frozen): two trees, each without the leaves of the other."""
        flat = flatten_dict(params)
        frozen = {path for path in flat if self._is_frozen("/".join(path))}
        return (
            unflatten_dict({path: leaf for path, leaf in flat.items() if path not in frozen}),
            unflatten_dict({path: flat[path] for path in frozen}),
        )

    def batch_norm_interceptor(self) -> Callable:
        """Return an interceptor for `nn.intercept_methods` that makes frozen BatchNorms use running statistics."""

        def intercept(method: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext):
            if isinstance(context.module, nn.BatchNorm):
                names = ["/".join((*context.module.path, name)) for name in ("scale", "bias")]
                if all(map(self._is_frozen, names)):
                    kwargs = {**kwargs, "use_running_average": True}
            return method(*args, **kwargs)

        return intercept

    def _is_frozen(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)


NOTHING_FROZEN = Freezing(())


def check_patterns(setting: str, patterns: Iterable[str], params: dict) -> None:
    """Raise `UserError` if a pattern of a setting matches the name of no parameter."""
    names = ["/".join(path) for path in flatten_dict(params)]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            modules = ", ".join(dict.fromkeys(name.partition("/")[0] for name in names))
            raise UserError(
                f"{setting}: no parameter matches {pattern!r}. Names begin with one of: {modules}. "
                "A * matches any characters."
            )


def merge(tree: dict, override: dict) -> dict:
    """Return one tree with the leaves of both. If both have a leaf of the same name, `override` provides it.

    Example:
      >>> merge({"head": {"kernel": 2}}, {"stem_conv": {"kernel": 1}})
      {'head': {'kernel': 2}, 'stem_conv': {'kernel': 1}}
    """
    return unflatten_dict(flatten_dict(tree) | flatten_dict(override))
