"""YAML as hostile input: no tags, aliases or names given twice, no endless work."""

from typing import Any

import yaml

from wslax.errors import WeightSpaceError

_LETTERS = 200_000  # a hundred times a long recipe; a few seconds of the parser
_DEPTH = 50
_DIGITS = 1000


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (they can explode) and without duplicate keys."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise WeightSpaceError("YAML aliases (*name) are not read; write the value out")
        self.depth += 1
        if self.depth > _DEPTH:
            raise WeightSpaceError(f"not valid YAML: nested deeper than {_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            line = node.start_mark.line + 1
            raise WeightSpaceError(f"not valid YAML: line {line}: half a character")
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise WeightSpaceError(f"line {line}: the key {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: Any) -> int:
    """Digits without end cost time to read (`1:59:59...` is one number) and cannot be printed."""
    if len(node.value) > _DIGITS:
        line = node.start_mark.line + 1
        raise WeightSpaceError(f"line {line}: a number of {len(node.value):,} digits")
    return loader.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_documents(text: str) -> list[Any]:
    r"""Parse YAML safely, every document of it.

    Args:
      text: documents parted by `---`, at most 200,000 letters.

    Returns:
      What each holds, of plain Python values; an empty document holds None.

    Raises:
      WeightSpaceError: if it is not YAML, too long or too deep, or has tags of Python, aliases,
        duplicate keys or values that their tag does not allow.

    Example:
        >>> read_documents("a: 1\n---\nb: [2.5]")
        [{'a': 1}, {'b': [2.5]}]
    """
    if len(text) > _LETTERS:
        raise WeightSpaceError(f"not valid YAML: {len(text):,} letters, at most {_LETTERS:,} read")
    try:
        return list(yaml.load_all(text, _Loader))
    except WeightSpaceError:
        raise
    # What PyYAML raises for values unlike their tag: ValueError (numbers, dates, digits without
    # end), KeyError (bools), AttributeError (dates), TypeError (keys that are lists).
    except (yaml.YAMLError, RecursionError, TypeError, LookupError, AttributeError, ValueError,
            OverflowError) as error:  # fmt: skip
        detail = " ".join(str(error).split()) or type(error).__name__
        raise WeightSpaceError(f"not valid YAML: {detail}") from error


def read_yaml(text: str) -> Any:
    """Parse one YAML document safely; see `read_documents`.

    Example:
        >>> read_yaml("a: [1, 2.5]")
        {'a': [1, 2.5]}
    """
    documents = read_documents(text)
    if len(documents) > 1:
        raise WeightSpaceError(f"not valid YAML: expected one document, got {len(documents)}")
    return documents[0] if documents else None
