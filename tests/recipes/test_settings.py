"""Settings: layers, checks, differences."""

import dataclasses
from typing import Annotated

import pytest
from annotated_types import Ge

from wslax.errors import WeightSpaceError
from wslax.recipes import config
from wslax.recipes.tour import PRESETS, TourConfig

STRICT = {"extra": "forbid"}


@dataclasses.dataclass(frozen=True)
class Inner:
    __pydantic_config__ = STRICT
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Outer:
    __pydantic_config__ = STRICT
    steps: Annotated[int, Ge(1)] = 5
    widths: tuple[int, ...] = (4,)
    inner: Inner = Inner()


def test_defaults_and_layers():
    assert config.parse(Outer, {}) == Outer()
    given = config.merged({"inner": {"rate": 0.2}, "steps": 2}, {"steps": 3})
    assert config.parse(Outer, given) == Outer(3, (4,), Inner(0.2))
    assert config.parse(Outer, {"widths": [1, 2]}).widths == (1, 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stesp": 1}, "stesp: no such key. Did you mean 'steps'?"),
        ({"inner": {"rat": 1}}, "inner.rat: no such key. Did you mean 'rate'?"),
        ({"steps": 0}, "steps: input should be greater than or equal to 1, got 0"),
        ({"steps": "many"}, "steps: .*got 'many'"),
        ({"inner": 3}, "inner: "),
        ([1], "expected keys and values"),
        ({1: 2}, "1: no such key"),
    ],
)
def test_wrong_settings_are_named(given, said):
    with pytest.raises(WeightSpaceError, match=said):
        config.parse(Outer, given, "file.yaml")


def test_all_errors_come_at_once():
    with pytest.raises(WeightSpaceError, match=r"steps.*inner\.rate"):
        config.parse(Outer, {"steps": 0, "inner": {"rate": "fast"}})


def test_files(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("inner: {rate: 0.5}\n")
    assert config.read(file) == {"inner": {"rate": 0.5}}
    file.write_text("")
    assert config.read(file) == {}
    file.write_text("a: [1")
    with pytest.raises(WeightSpaceError, match="not valid YAML"):
        config.read(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightSpaceError, match=r"cannot be read|not valid YAML"):
        config.read(file)


def test_differences_name_keys():
    old, new = dataclasses.asdict(Outer()), dataclasses.asdict(Outer(steps=7))
    assert config.differences(old, new) == ["steps is 5 there and 7 here"]
    assert config.differences(old, old) == []
    assert config.differences(old, {**old, "widths": [4]}) == []
    assert config.differences({}, dict.fromkeys("abcde", 1))[-1] == "2 more differ"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings(name):
    assert config.parse(TourConfig, PRESETS[name]) != TourConfig()
