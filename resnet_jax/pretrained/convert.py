"""Weights of other libraries as our variables, ours as theirs, and what did not fit."""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.pretrained.naming import Scheme, Shape, scheme_of


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of each array, under its name in `scheme`, with shapes as there.

    Attributes:
      scheme: what the arrays are named in.
      loaded: arrays that were taken.
      missing: what the network wants and the weights do not have.
      left_over: what the weights have and the network does not want.
      mismatched: of arrays in both, the shape in the weights and the shape that is wanted.
      skipped: arrays of either that were not to be taken.
    """

    scheme: Scheme
    loaded: dict[str, Shape]
    missing: dict[str, Shape]
    left_over: dict[str, Shape]
    mismatched: dict[str, tuple[Shape, Shape]]
    skipped: tuple[str, ...] = ()

    def differences(self) -> list[str]:
        """A phrase for each array that was not taken."""
        return [
            *(f"{name} is {have} and not {want}" for name, (have, want) in self.mismatched.items()),
            *(f"{name} {want} is missing" for name, want in self.missing.items()),
            *(f"{name} {have} is left over" for name, have in self.left_over.items()),
        ]

    def __str__(self) -> str:
        wanted = len(self.loaded) + len(self.missing) + len(self.mismatched) + len(self.skipped)
        summary = f"{len(self.loaded)} of {wanted} arrays loaded, by the names of {self.scheme.name}"
        skipped = [f"{name} is skipped" for name in self.skipped]
        return "\n".join([summary, *(f"  {each}" for each in self.differences() + skipped)])


def to_variables(
    arrays: Mapping[str, np.ndarray], scheme: Scheme, abstract: Mapping[str, Mapping], skip: Sequence[str] = ()
) -> tuple[dict[str, dict], Report]:
    """Our variables from a library's arrays.

    Args:
      arrays: by their names in `scheme`, of any floating dtype, which is kept.
      scheme: see `detect`.
      abstract: shapes of the network's variables, `{"params": ..., "batch_stats": ...}`, as of `jax.eval_shape`.
      skip: patterns of what is not to be taken, by its name here, such as "head/kernel", or its name there.

    Returns:
      The part of such a tree that could be filled, in NumPy arrays, and what became of each array.
    """
    variables, loaded, missing, mismatched, skipped = {}, {}, {}, {}, []
    for path, leaf in flatten_dict(abstract).items():
        name, wanted = scheme.name_of(path, leaf.shape), scheme.shape_of(path, leaf.shape)
        if any(fnmatch.fnmatchcase("/".join(path[1:]), pattern) for pattern in skip):
            skipped.append(name)
        elif name not in arrays:
            missing[name] = wanted
        elif arrays[name].shape != wanted:
            mismatched[name] = (arrays[name].shape, wanted)
        else:
            variables[path] = scheme.to_ours(arrays[name], leaf.shape)
            loaded[name] = wanted
    rest = [name for name in arrays if name not in loaded and name not in mismatched and name not in skipped]
    skipped += [name for name in rest if any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)]
    left_over = {name: arrays[name].shape for name in rest if name not in skipped}
    unused = [pattern for pattern in skip if not _names(pattern, abstract, arrays)]
    if unused:
        raise UserError(f"init_skip: nothing fits {unused[0]!r}, neither here nor in the weights")
    tree = {kind: {} for kind in abstract} | unflatten_dict(variables)
    return tree, Report(scheme, loaded, missing, left_over, mismatched, tuple(skipped))


def _names(pattern: str, abstract: Mapping[str, Mapping], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """What fits a pattern, of our names and of theirs."""
    return fnmatch.filter(["/".join(path[1:]) for path in flatten_dict(abstract)] + list(arrays), pattern)


def from_variables(variables: Mapping[str, Mapping], model: ResNet) -> dict[str, np.ndarray]:
    """The variables of `model`, as arrays under the names of `scheme_of(model)` and in PyTorch's layouts."""
    scheme = scheme_of(model)
    leaves = flatten_dict(jax.device_get(variables))
    return {scheme.name_of(path, leaf.shape): scheme.to_theirs(path, leaf) for path, leaf in leaves.items()}


def require_all_but_head(report: Report) -> None:
    """Accepts a network that was loaded as a whole, or up to a head for another number of classes.

    Raises:
      UserError: for anything else, which means that the weights are of another architecture.
    """
    new_head = {
        name: shapes
        for name, shapes in report.mismatched.items()
        if name.startswith(f"{report.scheme.modules['head']}.") and shapes[0][1:] == shapes[1][1:]
    }
    mismatched = {name: shapes for name, shapes in report.mismatched.items() if name not in new_head}
    report = dataclasses.replace(report, mismatched=mismatched)
    differences = report.differences()
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(
            f"the weights are of another network than the config's ({'; '.join(differences[:3])}{more}): "
            f"{_remedy(report)}"
        )


def _remedy(report: Report) -> str:
    """What to do, judged by the arrays that do not fit."""
    modules = report.scheme.modules
    stems = [f"{modules[stem]}.weight" for stem in ("stem_conv", "stem_conv1") if stem in modules]
    have, want = next((report.mismatched[name] for name in stems if name in report.mismatched), ((), ()))
    if len(have) != 4:
        have = want
    if have[2:] != want[2:]:
        return f"set model.stem to theirs, a convolution of {have[2]}x{have[3]}"
    if have[1:2] != want[1:2]:
        return f"they take pictures of {have[1]} channels, so choose pictures of as many, or other weights"
    if not report.mismatched:
        which = "without" if report.missing else "with"
        for pattern, remedy in (
            (r"\.(se|squeeze_excitation)\.", f"set model.name to a network {which} squeeze-and-excitation"),
            (r"\.(downsample|shortcut)\.", "set model.shortcut to theirs"),
            (r"\.running_(mean|var)$", "set model.norm to theirs"),
        ):
            if all(re.search(pattern, name) for name in report.missing | report.left_over):
                return remedy
        if not (report.missing and report.left_over):
            return f"set model.name to theirs, a {'shallower' if report.missing else 'deeper'} network"
    return "set model.name to the network that they are of"
