"""Convert weights between other libraries' arrays and our variables, and report what does not fit."""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.pretrained.naming import Scheme, Shape, scheme_for_model


class WeightsMismatch(UserError):
    """The weights belong to another architecture.

    Args:
      problem: what differs, without a final period.
      remedy: a sentence, for a model that the config describes.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}. {remedy}")
        self.problem = problem


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Report of which arrays were loaded and which were not, with names and shapes as in `scheme`.

    Attributes:
      scheme: the naming scheme of the weights.
      loaded: the arrays that were loaded.
      needed: the number of arrays that the model needs.
      missing: arrays that the model needs and the weights do not have.
      unexpected: arrays that the weights have and the model does not need.
      mismatched: for arrays of different shapes, the shape in the weights and the shape that the model needs.
      skipped: arrays of the weights or the model that were left out; see `skip` of `to_variables`.
    """

    scheme: Scheme
    loaded: dict[str, Shape]
    needed: int
    missing: dict[str, Shape]
    unexpected: dict[str, Shape]
    mismatched: dict[str, tuple[Shape, Shape]]
    skipped: tuple[str, ...] = ()

    def differences(self) -> list[str]:
        """Return a phrase for each array that is missing, is unexpected or has a different shape."""
        return [
            *(f"{name} has shape {actual}, not {needed}" for name, (actual, needed) in self.mismatched.items()),
            *(f"{name} {shape} is missing" for name, shape in self.missing.items()),
            *(f"{name} {shape} is unexpected" for name, shape in self.unexpected.items()),
        ]

    def __str__(self) -> str:
        summary = f"{len(self.loaded)} of {self.needed} arrays loaded (named as in {self.scheme.name})"
        skipped = [f"{name} is skipped" for name in self.skipped]
        return "\n".join([summary, *(f"  {phrase}" for phrase in self.differences() + skipped)])


def to_variables(
    arrays: Mapping[str, np.ndarray], scheme: Scheme, abstract: Mapping[str, Mapping], skip: Sequence[str] = ()
) -> tuple[dict[str, dict], LoadReport]:
    """Convert a library's arrays to our variables.

    Args:
      arrays: the arrays by their names in `scheme`. They may have any floating dtype, which is kept.
      scheme: the naming scheme, see `naming.find_schemes`.
      abstract: the shapes of the model's variables, `{"params": ..., "batch_stats": ...}`, as from `jax.eval_shape`.
      skip: name patterns of arrays to leave out. They are compared with our names, such as "head/kernel", and with the
        names in `scheme`.

    Returns:
      The variables that could be filled, as NumPy arrays, and a report on every array.

    Raises:
      UserError: if a pattern in `skip` matches nothing.
    """
    variables, loaded, missing, mismatched, skipped = {}, {}, {}, {}, []
    leaves = flatten_dict(abstract)
    all_names = set(arrays)
    for path, leaf in leaves.items():
        our_name, name = "/".join(path[1:]), scheme.array_name(path, leaf.shape)
        all_names |= {our_name, name}
        needed = scheme.array_shape(path, leaf.shape)
        if _matches(our_name, skip) or _matches(name, skip):
            skipped.append(name)
        elif name not in arrays:
            missing[name] = needed
        elif arrays[name].shape != needed:
            mismatched[name] = (arrays[name].shape, needed)
        else:
            variables[path] = scheme.import_array(arrays[name], leaf.shape)
            loaded[name] = needed
    remaining = [name for name in arrays if name not in loaded and name not in mismatched and name not in skipped]
    skipped += [name for name in remaining if _matches(name, skip)]
    unexpected = {name: arrays[name].shape for name in remaining if name not in skipped}
    unused = [pattern for pattern in skip if not any(_matches(name, [pattern]) for name in all_names)]
    if unused:
        raise UserError(
            f"the pattern {unused[0]!r} in init_skip matches no array of the model or the weights. "
            "Correct or remove the pattern."
        )
    tree = {kind: {} for kind in abstract} | unflatten_dict(variables)
    return tree, LoadReport(scheme, loaded, len(leaves), missing, unexpected, mismatched, tuple(skipped))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name matches any of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def from_variables(variables: Mapping[str, Mapping], model: ResNet) -> dict[str, np.ndarray]:
    """Convert the variables of `model` to arrays with the names and layouts of `scheme_for_model(model)`."""
    scheme = scheme_for_model(model)
    leaves = flatten_dict(jax.device_get(variables))
    return {scheme.array_name(path, leaf.shape): scheme.export_array(path, leaf) for path, leaf in leaves.items()}


def require_all_but_head(report: LoadReport) -> None:
    """Check that everything was loaded, except perhaps a head for a different number of classes, and skipped arrays.

    Raises:
      WeightsMismatch: if anything else differs.
    """
    new_head = {  # In PyTorch's layout, the number of classes is the first dimension.
        name: shapes
        for name, shapes in report.mismatched.items()
        if name.startswith(f"{report.scheme.modules['head']}.") and shapes[0][1:] == shapes[1][1:]
    }
    mismatched = {name: shapes for name, shapes in report.mismatched.items() if name not in new_head}
    report = dataclasses.replace(report, mismatched=mismatched)
    differences = report.differences()
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise WeightsMismatch(
            f"the weights do not fit the model of the config ({'; '.join(differences[:3])}{more})", _remedy(report)
        )


def _remedy(report: LoadReport) -> str:
    """Return what to do about the differences, as a sentence."""
    only_heads = _only_heads_remedy(report)
    if only_heads:
        return only_heads
    modules = report.scheme.modules
    stems = [f"{modules[stem]}.weight" for stem in ("stem_conv", "stem_conv1") if stem in modules]
    actual, needed = next((report.mismatched[name] for name in stems if name in report.mismatched), ((), ()))
    if len(actual) != 4:
        actual = needed
    if actual[2:] != needed[2:]:
        return f"Set model.stem to the stem of the weights, whose first convolution is {actual[2]}x{actual[3]}."
    if actual[1:2] != needed[1:2]:
        return f"The weights need images of {actual[1]} channels. Use such images, or other weights."
    if not report.mismatched:
        with_or_without = "without" if report.missing else "with"
        for pattern, remedy in (
            (r"\.(se|squeeze_excitation)\.", f"Set model.name to a model {with_or_without} squeeze-and-excitation."),
            (r"\.(downsample|shortcut)\.", "Set model.shortcut to the shortcut of the weights."),
            (r"\.running_(mean|var)$", "Set model.norm to the norm of the weights."),
        ):
            if all(re.search(pattern, name) for name in report.missing | report.unexpected):
                return remedy
        if not (report.missing and report.unexpected):
            return (
                f"Set model.name to the model of the weights, which is {'shallower' if report.missing else 'deeper'}."
            )
    return "Set model.name to the model of the weights."


def _only_heads_remedy(report: LoadReport) -> str:
    """Return what to do if nothing but heads differs, or ''. A head is any part that has no counterpart in a backbone.

    Weights without a head come from self-supervised learning, for example, often with a projection in its place.
    """
    head = report.scheme.modules["head"].split(".")[0]
    needed = {_part(name) for name in report.loaded | report.missing} - {head}
    heads = sorted({_part(name) for name in report.missing | report.unexpected})
    without_number = {part.rstrip("0123456789") for part in needed}
    if report.mismatched or any(part != head and part.rstrip("0123456789") in without_number for part in heads):
        return ""
    patterns = tuple(f"{part}*" for part in heads)
    new_head = ", and to train a new head" if report.missing else ""
    return f'Set --config.init_skip="{patterns}" to leave these arrays out{new_head}.'


def _part(name: str) -> str:
    """Return the first part of the name of an array.

    Example:
      >>> _part("layer1.0.conv1.weight")
      'layer1'
    """
    return name.split(".")[0]
