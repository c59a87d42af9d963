"""What the devices tell one another in a compiled program, read from its text.

The text is XLA's own language, HLO, after all of its passes: `jax.stages.Compiled.as_text()`.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

# An instruction: a name, "=", the shape of its result, or a tuple of such, and what it does. Asynchronous ones begin
# with -start and end with -done, which is not counted again.
INSTRUCTION = re.compile(
    r"^ *(?:ROOT )?%?[\w.-]+ = (?P<result>\([^\"\n]*?\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-broadcast|"
    r"collective-permute)(?P<start>-start)?\(",
    re.MULTILINE,
)
ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<shape>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: as HLO calls it, such as "all-reduce".
      arrays: its results on one device, as (dtype, shape), such as ("f32", (3, 3, 64, 64)).
      asynchronous: whether the device may compute while it goes on.
    """

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    asynchronous: bool = False

    @property
    def bytes(self) -> int:
        """Of its results on one device."""
        return sum(_bytes(*array) for array in self.arrays)


def collectives(hlo: str) -> list[Collective]:
    """All collectives of a compiled program, each once, in the order of its text.

    What stands in a loop stands there once, and counts once.
    """
    return [_read(found) for found in INSTRUCTION.finditer(hlo)]


def by_kind(found: Sequence[Collective]) -> list[dict]:
    """Of each kind the `count`, how many of them are `asynchronous`, the `bytes`, and these `by_type` of the arrays."""
    kinds = sorted({each.kind for each in found})
    return [{"kind": kind, **_sums([each for each in found if each.kind == kind])} for kind in kinds]


def _sums(found: Sequence[Collective]) -> dict:
    by_type = collections.Counter()
    for each in found:
        for dtype, shape in each.arrays:
            by_type[dtype] += _bytes(dtype, shape)
    return {
        "count": len(found),
        "asynchronous": sum(each.asynchronous for each in found),
        "bytes": by_type.total(),
        "by_type": dict(sorted(by_type.items())),
    }


def _read(found: re.Match) -> Collective:
    result = found["result"]
    if found["start"] and found["kind"] in ("all-gather", "collective-permute"):
        # The result of a start is a tuple: what goes in, what comes out, and sometimes room for flags.
        result = _parts(result)[1]
    arrays = tuple((array["dtype"], _numbers(array["shape"])) for array in ARRAY.finditer(result))
    return Collective(found["kind"], arrays, asynchronous=bool(found["start"]))


def _parts(result: str) -> list[str]:
    """The members of a tuple, which may be tuples themselves."""
    parts, depth = [""], 0
    for character in result[1:-1]:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _numbers(text: str) -> tuple[int, ...]:
    """The dimensions of an array, as HLO writes them: "3,3,64,64", or nothing for a scalar."""
    return tuple(int(number) for number in text.split(",") if number)


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Of an array of "f32", "bf16", "s8", "u4", "f8e4m3fn", "c64" or, without a number, "pred"."""
    number = re.search(r"\d+", dtype)
    bits = int(number[0]) if number else 8
    return -(-bits * math.prod(shape) // 8)
