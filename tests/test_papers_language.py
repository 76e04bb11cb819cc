"""The experiment on language: how its tasks are cut from texts, and the vote."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from benchmarks.papers import genome, genome_language
from benchmarks.papers.genome_language import texts


def test_a_play_goes_from_its_leads_first_speech_to_the_last():
    text = "A:\nx\n\nB:\none\n\nA:\ntwo\n\nB:\nthree"
    start, stop = texts.span(text, "B")
    assert text[start:stop] == "\nB:\none\n\nA:\ntwo\n"


def test_a_window_is_what_comes_before_a_character():
    x, y = texts.windows(np.arange(15), 2)
    assert x.tolist() == [[*range(12)], [*range(2, 14)]]
    assert y.tolist() == [12, 14]


def test_tasks_get_as_many_examples_each_with_its_own_label():
    few, many = np.arange(3), np.arange(10, 17)
    x, y = texts.even([(few[:, None], few), (many[:, None], many)])
    assert x.shape == (2, 3, 1)
    assert (x[..., 0] == y).all()
    assert sorted(y[0]) == [0, 1, 2]
    assert len(set(y[1].tolist()) & set(many.tolist())) == 3


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [("good but not new", 0), ("it is n't new", 1), ("butter and notes", 2), ("word " * 16, 3)],
)
def test_kinds_of_sentences(sentence, expected):
    assert texts.kind(sentence.split()) == expected


def test_a_bag_has_the_known_words_once():
    found = texts.bags([["b", "c", "b"], []], ["a", "b"])
    assert found.tolist() == [[0, 1], [0, 0]]


def test_a_vote_is_of_any_number_of_classes():
    says = lambda params, x: jnp.eye(12)[params["w"] + x]  # the class w + x
    family = types.SimpleNamespace(net=ws.nets.Net(lambda key: {}, says))
    members = {"w": jnp.array([5, 11, 11])}
    part = np.zeros((1, 4), np.int32), np.array([[11, 11, 5, 0]])
    assert genome.vote(family, members, part) == 0.5
    assert genome.vote(family, {"w": jnp.array([3, 2])}, (part[0], part[1] * 0 + 2)) == 1


def test_what_is_missing_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WSLAX_DATA", str(tmp_path))
    with pytest.raises(ws.WeightSpaceError, match="SST-2"):
        genome_language.measure(1)
    assert "tinyshakespeare" in capsys.readouterr().err
