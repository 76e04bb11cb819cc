"""Files of several recipes: their order, and what cannot be ordered."""

import pathlib

import pytest

from wslax import WeightSpaceError
from wslax.merge.files.config import parse_recipe
from wslax.merge.files.documents import in_order


def recipe(name, *models, **keys):
    content = {"merge_method": "linear", "models": [{"model": m} for m in models], **keys}
    return parse_recipe(content if name is None else {**content, "name": name})


def order(*recipes):
    steps = in_order(recipes, pathlib.Path("out"), pathlib.Path("parts"))
    return [(str(step.out), [e.model for e in step.recipe.models]) for step in steps]


def test_each_comes_after_what_it_needs():
    found = order(recipe(None, "y", "z"), recipe("y", "x+lora", "b"), recipe("x", "a", "b"))
    assert found == [
        ("parts/x", ["a", "b"]),
        ("parts/y", ["parts/x+lora", "b"]),
        ("out", ["parts/y", "z"]),
    ]


def test_the_last_of_named_recipes_is_the_output():
    assert order(recipe("x", "a"), recipe("y", "x"))[-1] == ("out", ["parts/x"])


def test_base_tokenizer_and_token_sources_are_references_too():
    tokens = {"t": {"source": {"kind": "model_token", "model": "x", "token": "u"}}}
    last = recipe(None, "a", "x", base_model="x", tokenizer={"source": "x", "tokens": tokens})
    step = in_order([recipe("x", "b"), last], pathlib.Path("out"), pathlib.Path("parts"))[-1]
    assert step.recipe.base_model == step.recipe.tokenizer.source == "parts/x"
    assert step.recipe.tokenizer.tokens["t"].source["model"] == "parts/x"
    assert step.recipe.tokenizer.tokens["t"].source["token"] == "u"


@pytest.mark.parametrize(
    ("recipes", "sentence"),
    [
        ([("x", "y"), ("y", "x")], "recipes need each other: "),
        ([("x", "x")], "recipes need each other: "),
        ([("x", "a"), ("x", "b")], "two recipes are called 'x'"),
        ([("../x", "a"), (None, "b")], "name: '../x' is no plain name of a folder"),
        ([(None, "a"), (None, "b")], "2 recipes could give the output"),
        ([("x", "a"), ("y", "b")], "2 recipes could give the output"),
    ],
)
def test_what_cannot_be_ordered(recipes, sentence):
    with pytest.raises(WeightSpaceError) as error:
        order(*(recipe(*given) for given in recipes))
    assert sentence in str(error.value)
