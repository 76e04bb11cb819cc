"""Recipes: precedence and gradients against values by hand, and every mistake named at once."""

import pytest

from wslax import WeightSpaceError
from wslax.io.safe_yaml import read_yaml
from wslax.merge.files import config, layers, resolve
from wslax.merge.files import recipe as recipes
from wslax.merge.registry import METHODS

NAMES = ["embed.w", *(f"h.{i}.{part}.w" for i in range(5) for part in ("attn", "mlp")), "head.w"]
PLACE = layers.positions(NAMES)


def recipe(own=None, shared=None, method="linear", **keys):
    models = [{"model": "a", "parameters": own or {}}, {"model": "b"}]
    content = {"merge_method": method, "models": models, "parameters": shared or {}, **keys}
    return config.parse_recipe(content)


def value(found, name, word="coef"):
    return resolved(found, name)[word]


def resolved(found, name):
    piece = recipes.pieces(found)[""][0]
    method = METHODS[found.merge_method]
    return resolve.resolve(method, piece, name, [name] * len(piece.members), PLACE[name])


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        ({}, {}, (1, 1)),
        ({}, {"weight": 3}, (3, 3)),
        ({"weight": 2}, {"weight": 3}, (2, 3)),
        ({"weight": 0}, {"weight": 3}, (0, 3)),
        ({"weight": "2e-1"}, {"weight": 3}, (0.2, 3)),
        ({"weight": {"value": 2}}, {"weight": 3}, (2, 3)),
        ({"weight": {"value": 2, "filter": "mlp"}}, {"weight": 3}, (2, 3)),
        ({"weight": {"value": 2, "filter": "attn"}}, {"weight": 3}, (3, 3)),
        ({"weight": [{"filter": "attn", "value": 2}]}, {}, (1, 1)),
        ({"weight": [{"filter": "mlp", "value": 2}, {"value": 9}]}, {"weight": 3}, (2, 3)),
        ({"weight": [{"filter": "attn", "value": 2}, {"value": 9}]}, {"weight": 3}, (9, 3)),
        ({"weight": [{"filter": "*", "value": 9}, {"filter": "mlp", "value": 2}]}, {}, (9, 1)),
        ({"weight": [0, 1]}, {"weight": [4, 0]}, (0.5, 2)),
        ({"weight": [{"filter": "mlp", "value": [1, 3]}]}, {}, (2, 1)),
    ],
)
def test_precedence_at_the_middle_layer(own, shared, expected):
    assert value(recipe(own, shared), "h.2.mlp.w") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gradient", "by_name"),
    [
        ([0, 1], {"embed.w": 0, "h.0.mlp.w": 0, "h.1.mlp.w": 0.25, "h.4.mlp.w": 1, "head.w": 0}),
        ([1, 0, 4], {"embed.w": 1, "h.1.attn.w": 0.5, "h.2.attn.w": 0, "h.3.attn.w": 2}),
        ([7], {"embed.w": 7, "h.2.attn.w": 7, "head.w": 7}),
        ([0, 10, 20, 30], {"h.1.mlp.w": 7.5, "h.2.mlp.w": 15, "h.3.mlp.w": 22.5}),
    ],
)
def test_gradients_by_hand(gradient, by_name):
    found = recipe(shared={"t": gradient}, method="slerp", base_model="a")
    for name, expected in by_name.items():
        assert value(found, name, "t") == pytest.approx(expected)


def test_stacks_have_layers_of_their_own_and_a_single_layer_is_the_last():
    place = layers.positions(["enc.0.w", "enc.1.w", "enc.2.w", "dec.0.w"])
    assert place == {"enc.0.w": 0, "enc.1.w": 0.5, "enc.2.w": 1, "dec.0.w": 1}


def test_bool_lists_pick_an_element():
    found = recipe(shared={"normalize": [True, False, True]})
    picked = [value(found, f"h.{i}.mlp.w", "normalize") for i in range(5)]
    assert picked == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("method", "base", "models", "expected"),
    [
        ("slerp", "b", "ab", "ba"),
        ("slerp", "c", "a", "ca"),
        ("slerp", None, "ab", "ab"),
        ("linear", "b", "ab", "ab"),
        ("linear", "c", "ab", "abc"),
        ("ties", "b", "abc", "ac"),
        ("ties", "d", "abc", "abc"),
    ],
)
def test_where_the_base_stands(method, base, models, expected):
    entries = [recipes.ModelEntry(path) for path in models]
    given = recipes.Recipe(method, entries, base_model=base)
    found = recipes.pieces(given)[""][0].members
    assert "".join(entry.model for entry in found) == expected


def test_keys_that_change_nothing_in_mergekit_are_taken():
    shared = {"int8_mask": True, "density": 0.3, "rescale": True}
    found = recipe(shared=shared, method="task_arithmetic", base_model="b")
    assert "density" not in resolved(found, "head.w")
    assert config.ignored(found) == ["density", "rescale"]


def test_dtypes_may_be_spelled_as_in_torch():
    assert recipe(dtype="torch.bfloat16").dtype == "bfloat16"


GOOD = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"merge_method": "teis"},
            "merge_method: no method is called 'teis'. Did you mean 'ties'?",
        ),
        ({"merge_metod": "ties"}, "unknown key 'merge_metod'. Did you mean 'merge_method'?"),
        ({"models": [{"model": "a", "wieght": 1}]}, "unknown key 'models.0.wieght'."),
        ({"models": []}, "give exactly one of models, slices and modules, got none"),
        ({"models": [{"model": "a"}] * 2}, "models: a model is listed twice"),
        ({"models": "a"}, "models: input should be a valid list, got 'a'"),
        ({"models": [{}]}, "models.0.model: is missing"),
        (
            {"slices": [{"sources": []}]},
            "one of models, slices and modules, got models and",
        ),
        ({"modules": {"a": {}}}, "modules.a: give either models or slices"),
        (
            {"tokenizer": {"pad_to_multiple_of": 0}},
            "pad_to_multiple_of: expected at least",
        ),
        (
            {"tokenizer": {}, "tokenizer_source": "base"},
            "either tokenizer or tokenizer_source",
        ),
        ({"tokenizer": {"sorce": "base"}}, "unknown key 'tokenizer.sorce'. Did you mean 'source'?"),
        ({"dtype": "bf16"}, "dtype: unknown dtype 'bf16'. Did you mean 'bfloat16'?"),
        ({"merge_method": "ties"}, "base_model: ties needs one"),
        ({"merge_method": "slerp"}, "parameters: slerp needs t"),
        ({"merge_method": "passthrough"}, "models: passthrough takes at least 1 and at most 1"),
        ({"base_model": {"path": 3}}, "base_model: input should be a valid string, got 3"),
        ({"parameters": {"wieght": 1}}, "linear has no such parameter. Did you mean 'weight'?"),
        ({"parameters": {"weight": "high"}}, "parameters.weight: expected a number"),
        ({"parameters": {"weight": True}}, "parameters.weight: expected a number, got True"),
        ({"parameters": {"weight": float("nan")}}, "expected a finite number, got nan"),
        ({"parameters": {"weight": 10**400}}, "parameters.weight: expected a number"),
        ({"parameters": {"weight": []}}, "parameters.weight: expected a number, a list"),
        ({"parameters": {"weight": [1, {"value": 2}]}}, "parameters.weight: expected a number, a"),
        ({"parameters": {"weight": [[1, 2], 3]}}, "parameters.weight: expected a number, a list"),
        ({"parameters": {"weight": {"value": 1, "fliter": "a"}}}, "expected a number, a list"),
        ({"parameters": {"weight": {"value": 1, "filter": 3}}}, "a filter is a part of a tensor"),
        ({"parameters": {"normalize": 1}}, "parameters.normalize: expected true or false"),
        (
            {"merge_method": "karcher", "parameters": {"max_iter": 2.5, "tol": -1}},
            "parameters.max_iter: expected a whole number, got 2.5; parameters.tol: expected 0 to",
        ),
        (
            {"merge_method": "ram", "base_model": "c", "parameters": {"epsilon": -1}},
            "at least 0, got",
        ),
        (
            {"models": [{"model": "a", "parameters": {"normalize": True}}]},
            "models.0.parameters.normalize: is one value for all models",
        ),
    ],
)
def test_each_mistake_has_its_sentence(change, sentence):
    with pytest.raises(WeightSpaceError) as error:
        config.parse_recipe({**GOOD, **change})
    assert sentence in str(error.value)


@pytest.mark.parametrize("density", [-0.1, 1.5, [0.5, 2], {"value": -1}, [{"value": [0, 3]}]])
def test_densities_out_of_range(density):
    ties = {**GOOD, "merge_method": "ties", "base_model": "c", "parameters": {"density": density}}
    with pytest.raises(WeightSpaceError, match="density: expected 0 to 1, got"):
        config.parse_recipe(ties)


def test_all_mistakes_come_at_once():
    content = {
        "merge_method": "ties",
        "models": [{"model": "a", "parameters": {"density": 7}}, {"modle": "b"}],
        "parameters": {"lamda": 1},
        "dype": "float32",
    }
    with pytest.raises(WeightSpaceError) as error:
        config.parse_recipe(content)
    parts = ("density: expected 0 to 1", "'models.1.modle'", "Did you mean 'lambda'", "'dype'")
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2", "line 2: the key 'a' stands twice"),
        ("a: {b: 1, b: 2}", "the key 'b' stands twice"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: &x [*x]", "aliases"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_hostile_yaml(text, sentence):
    with pytest.raises(WeightSpaceError, match=sentence):
        read_yaml(text)


def test_a_recipe_that_is_not_text_or_not_a_mapping(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightSpaceError, match="not a text file"):
        config.read_recipe(tmp_path / "a.yaml")
    with pytest.raises(WeightSpaceError, match="a recipe is a mapping"):
        config.parse_recipe(["linear"])


def test_a_tensor_without_a_value_is_named():
    found = recipe(shared={"t": [{"filter": "mlp", "value": 0.5}]}, method="slerp", base_model="a")
    with pytest.raises(WeightSpaceError, match=r"h\.0\.attn\.w: no value for t"):
        value(found, "h.0.attn.w", "t")
