"""Collectives of a compiled program, read from its HLO text.

HLO is the language in which XLA represents programs. `jax.stages.Compiled.as_text()` returns the HLO text of a program
after all passes of XLA.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

# One instruction: a name, "=", the shape of its result (or a tuple of shapes), and the operation. An asynchronous
# collective is a pair of instructions, -start and -done; only the -start matches, so that the pair counts once.
COLLECTIVE_INSTRUCTION = re.compile(
    r"^ *(?:ROOT )?%?[\w.-]+ = (?P<result>\([^\"\n]*?\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-broadcast|"
    r"collective-permute)(?P<start>-start)?\(",
    re.MULTILINE,
)
# Between TPU slices, a collective is a send to a runtime of its own ("megascale") and a recv from it.
SEND_TO_OTHER_SLICES = re.compile(
    r"^ *%?[\w.-]+ = \((?P<result>[a-z]\w*\[[\d,]*\])[^\n]* send\([^\n]*"
    r"_xla_megascale_transfer_type=\"(?P<kind>\w+)\"",
    re.MULTILINE,
)
ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<shape>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange of data between devices.

    Attributes:
      kind: its name in HLO, such as "all-reduce".
      arrays: dtype and shape of each of its results on one device, such as ("f32", (3, 3, 64, 64)).
      asynchronous: whether the device can compute while the exchange is in progress.
      between_slices: whether the exchange is between TPU slices, over the network of the data center.

    Example:
      >>> Collective("all-reduce", (("f32", (3, 3, 64, 64)),)).bytes
      147456
    """

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    asynchronous: bool = False
    between_slices: bool = False

    @property
    def bytes(self) -> int:
        """Size of the results on one device."""
        return sum(array_bytes(dtype, shape) for dtype, shape in self.arrays)


def parse_collectives(hlo: str) -> list[Collective]:
    """Return all collectives in the HLO text of a compiled program, in the order of the text.

    Those between TPU slices come last. The body of a loop appears once in the text, so its collectives count once,
    however often the loop runs.

    Example:
      >>> parse_collectives("%sum = f32[10]{0} all-reduce(%x), to_apply=%add")
      [Collective(kind='all-reduce', arrays=(('f32', (10,)),), asynchronous=False, between_slices=False)]
    """
    return [
        *(_parse_instruction(match) for match in COLLECTIVE_INSTRUCTION.finditer(hlo)),
        *(_parse_send(match) for match in SEND_TO_OTHER_SLICES.finditer(hlo)),
    ]


def summarize_by_kind(collectives: Sequence[Collective]) -> list[dict]:
    """Sum collectives by kind.

    Returns:
      One dict per kind, first those inside of slices and then those between them: `kind`, `between_slices`, `count`,
      how many of them are `asynchronous`, `bytes`, and `by_type`, which splits the bytes by dtype.

    Example:
      >>> summarize_by_kind([Collective("all-reduce", (("f32", (2,)),))])[0]["by_type"]
      {'f32': 8}
    """
    summaries = []
    for between, kind in sorted({(collective.between_slices, collective.kind) for collective in collectives}):
        of_kind = [c for c in collectives if (c.between_slices, c.kind) == (between, kind)]
        bytes_by_type: collections.Counter[str] = collections.Counter()
        for collective in of_kind:
            for dtype, shape in collective.arrays:
                bytes_by_type[dtype] += array_bytes(dtype, shape)
        summaries.append(
            {
                "kind": kind,
                "between_slices": between,
                "count": len(of_kind),
                "asynchronous": sum(collective.asynchronous for collective in of_kind),
                "bytes": bytes_by_type.total(),
                "by_type": dict(sorted(bytes_by_type.items())),
            }
        )
    return summaries


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the size of an array in bytes.

    Args:
      dtype: as HLO writes it: "f32", "bf16", "s8", "u4", "f8e4m3fn", "c64", or "pred" (8 bits, although the name holds
        no number).
      shape: the shape of the array.

    Example:
      >>> array_bytes("u4", (3,))
      2
    """
    number = re.search(r"\d+", dtype)
    bits = int(number[0]) if number else 8
    return math.ceil(bits * math.prod(shape) / 8)


def _parse_instruction(match: re.Match) -> Collective:
    result = match["result"]
    if match["start"] and match["kind"] in ("all-gather", "collective-permute"):
        # For these kinds, -start returns a tuple: the operands, the results, and sometimes flags.
        result = _tuple_elements(result)[1]
    arrays = tuple((array["dtype"], _parse_shape(array["shape"])) for array in ARRAY.finditer(result))
    return Collective(match["kind"], arrays, asynchronous=bool(match["start"]))


def _parse_send(match: re.Match) -> Collective:
    kind = match["kind"].lower().replace("_", "-")
    arrays = tuple((array["dtype"], _parse_shape(array["shape"])) for array in ARRAY.finditer(match["result"]))
    return Collective(kind, arrays, asynchronous=True, between_slices=True)


def _tuple_elements(result: str) -> list[str]:
    """Split the text of a tuple into its elements, which may be tuples themselves."""
    elements = [""]
    depth = 0
    for character in result[1:-1]:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += character
    return elements


def _parse_shape(text: str) -> tuple[int, ...]:
    """Parse the dimensions of an array as HLO writes them: "3,3,64,64", or "" for a scalar."""
    return tuple(int(dimension) for dimension in text.split(",") if dimension)
