"""YAML from strangers: no tags that run code, no aliases, no key twice, no endless file."""

from typing import Any

import yaml

from wslax.errors import WeightSpaceError

LIMIT = 300_000  # bytes of a recipe; the pure-Python parser reads about 100 kB a second


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (they can explode) and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise WeightSpaceError("YAML aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool, type(None))):
                if key in seen:
                    line = key_node.start_mark.line + 1
                    raise WeightSpaceError(f"line {line}: the key {key!r} stands twice")
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_documents(text: str) -> list[Any]:
    r"""Parse YAML safely, every document of it.

    Args:
      text: YAML; documents are parted by `---`.

    Returns:
      What each document holds; an empty document holds None.

    Raises:
      WeightSpaceError: bad YAML, tags, aliases, duplicate keys, nesting too deep to read, or more
        than 300 kB.

    Example:
        >>> read_documents("a: 1\n---\nb: [2.5]")
        [{'a': 1}, {'b': [2.5]}]
    """
    if len(text) > LIMIT:
        raise WeightSpaceError(f"{len(text):,} characters of YAML; a recipe has at most {LIMIT:,}")
    try:
        return list(yaml.load_all(text, _Loader))
    except (
        yaml.YAMLError, RecursionError, TypeError, ValueError, OverflowError, AttributeError,
        LookupError,
    ) as error:  # fmt: skip
        if isinstance(error, WeightSpaceError):
            raise
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
        raise WeightSpaceError(f"expected one YAML document, got {len(documents)}")
    return documents[0] if documents else None
