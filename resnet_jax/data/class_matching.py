"""Names of classes that are equal or nearly equal.

Two classes may have the same name, like the two kinds of "crane" in ImageNet. So no code may look up a class by its
name alone.
"""

import collections
import unicodedata
from collections.abc import Sequence


def match(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Return the position of each name in `known`. The n-th class of a name matches the n-th class of this name there.

    Raises:
      KeyError: if a name occurs less often in `known`; see `missing`.

    Example:
      >>> match(["crane", "crow", "crane"], ["crow", "crane", "crane"])
      [1, 0, 2]
    """
    position = {key: number for number, key in enumerate(_numbered(known))}
    return [position[key] for key in _numbered(names)]


def missing(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the names for which `match` finds no position, sorted.

    Example:
      >>> missing(["crane", "crow", "crane"], ["crane"])
      ['crane', 'crow']
    """
    return sorted((collections.Counter(names) - collections.Counter(known)).elements())


def distinct(names: Sequence[str]) -> list[str]:
    """Return the names, with the label added to those that several classes have.

    Example:
      >>> distinct(["crane", "crow", "crane"])
      ['crane (label 0)', 'crow', 'crane (label 2)']
    """
    counts = collections.Counter(names)
    return [f"{name} (label {label})" if counts[name] > 1 else name for label, name in enumerate(names)]


def similar(names: Sequence[str]) -> str | None:
    """Return a sentence about classes whose names differ at most in case, spaces or Unicode form; None if none do.

    Example:
      >>> similar(["cat", "dog", "Cat "])
      "Names of classes differ only in case, spaces or Unicode form: 'cat' (label 0) and 'Cat ' (label 2)."
      >>> similar(["cat", "dog"])
    """
    groups = collections.defaultdict(list)
    for label, name in enumerate(names):
        groups[_simplify(name)].append(f"{name!a} (label {label})")
    alike = [" and ".join(group) for group in groups.values() if len(group) > 1]
    if not alike:
        return None
    all_differ = len(set(names)) == len(names)
    how = "differ only in case, spaces or Unicode form" if all_differ else "are equal or nearly equal"
    return f"Names of classes {how}: {'; '.join(alike)}."


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return each name with the number of its earlier occurrences."""
    seen: collections.Counter[str] = collections.Counter()
    numbered = []
    for name in names:
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


def _simplify(name: str) -> str:
    """Return a name without what is hard to see: case, spaces, invisible characters and the Unicode form."""
    normal = unicodedata.normalize("NFKC", name)
    return "".join(character for character in normal if character.isprintable() and character != " ").casefold()
