"""Groups read from jaxprs: what is expected of each architecture, and the proof by permuting."""

import itertools
import pathlib

import equinox as eqx
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from blocks import BLOCKS, build
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import TRAPS, ZOO, shapes

from wslax import WeightSpaceError, nets, symmetry
from wslax.symmetry import RULES, Groups, check, infer
from wslax.symmetry.rules.elementwise import elementwise


@pytest.fixture(autouse=True)
def _models_broadcast_as_they_like():
    with jax.numpy_rank_promotion("allow"):
        yield


MARK = {"produced": "+", "consumed": "-", "elementwise": "."}


def expected():
    text = (pathlib.Path(__file__).parent / "expected.txt").read_text()
    parts = text.split("\n[")[1:]
    return {part.split("]")[0]: part.split("]\n")[1].strip().splitlines() for part in parts}


EXPECTED = expected()


def site(groups, s):
    whole = (s.outer, s.start, s.size) == (1, 0, groups.shape[s.name][s.axis])
    piece = "" if whole else str(s).partition("[")[2].partition(": ")[2].partition("]")[0]
    return f"{s.name}[{s.axis}{':' if piece else ''}{piece.replace(' ', '')}]{MARK[s.role]}"


def powers(group):
    for kind, found in (("scale", group.scales), ("sign", group.signs)):
        for each in found:
            yield f" | {kind} {''.join({1: '+', 0: '0', -1: '-'}.get(n, f'({n})') for n in each)}"


def lines(groups):
    for group in groups.free:
        per = f" per {','.join(map(str, group.per))}" if group.per else ""
        by = f" by {','.join(group.reductions)}" if group.reductions else ""
        yield f"{group.id}{per}{by} | {' '.join(site(groups, s) for s in group.sites)}" + (
            "".join(powers(group))
        )


def random_inputs(inputs):
    keys = jr.split(jr.key(7), len(inputs))
    return [
        jr.normal(k, x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else x
        for k, x in zip(keys, inputs, strict=True)
    ]


@pytest.mark.parametrize("name", ZOO)
def test_the_groups_of_each_architecture(name):
    apply, params, inputs = ZOO[name]()
    groups = infer(apply, params, *inputs)
    assert list(lines(groups)) == EXPECTED[name]
    again = infer(apply, *jax.eval_shape(lambda *a: a, params, *inputs))
    assert again == groups
    assert Groups.from_json(groups.to_json()) == groups
    assert hash(again) == hash(groups)


@pytest.mark.parametrize("name", ZOO)
def test_permuting_free_groups_changes_nothing(name):
    apply, params, inputs = ZOO[name]()
    groups = infer(apply, params, *inputs)
    assert check(apply, params, groups, *random_inputs(inputs), key=jr.key(1)) < 1e-5


FREE_PARTS = {"fold": [4], "flatten": [2], "outer": [7], "gram": [8]}


@pytest.mark.parametrize("name", TRAPS)
def test_what_depends_on_order_is_frozen(name):
    apply, params, inputs = TRAPS[name]()
    groups = infer(apply, params, *inputs)
    assert [group.size for group in groups.free] == FREE_PARTS.get(name, [])
    assert check(apply, params, groups, *random_inputs(inputs), key=jr.key(1)) < 1e-5
    assert all("zoo.py:" in g.frozen_by for g in groups.at("a", 1) if g.frozen_by)


BLIND = ("argmax", "sort", "top")  # to a permutation of one layer alone


@pytest.mark.parametrize("name", [name for name in TRAPS if name not in BLIND])
def test_the_check_would_find_a_wrong_group(name):
    apply, params, inputs = TRAPS[name]()
    wrong = Groups.from_sites(params, [[("a", 1, "produced")]])
    assert check(apply, params, wrong, *random_inputs(inputs), key=jr.key(1)) > 1e-3


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=5))
def test_random_nets_are_sound(names):
    try:
        apply, params = build(names)
    except (TypeError, ValueError):  # an odd width met a block that halves it
        return
    x = jr.normal(jr.key(5), (4, 3))
    groups = infer(apply, params, x)
    assert check(apply, params, groups, x, key=jr.key(1)) < 2e-5


def test_equinox_modules():
    model = eqx.nn.MLP(3, 2, 8, 2, key=jr.key(0))
    groups = infer(lambda m, x: jax.vmap(m)(x), model, jnp.zeros((4, 3)))
    found = [sorted(site(groups, s) for s in group.sites) for group in groups.free]
    names = [f"layers/{i}" for i in range(3)]
    assert found == [
        sorted([f"{a}/weight[0]+", f"{a}/bias[0].", f"{b}/weight[1]-"])
        for a, b in itertools.pairwise(names)
    ]


def test_nnx_modules():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(3, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
            self.b = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            return self.b(nnx.relu(self.norm(self.a(x))))

    graph, state = nnx.split(Model(nnx.Rngs(0)))
    groups = infer(lambda s, x: nnx.merge(graph, s)(x), state, jnp.zeros((4, 3)))
    (hidden,) = groups.free
    assert {s.name for s in hidden.sites} == {
        "a/kernel",
        "a/bias",
        "b/kernel",
        "norm/scale",
        "norm/bias",
        "norm/mean",
        "norm/var",
    }


def test_an_operation_without_a_rule_freezes_and_can_be_taught():
    def apply(p, x):
        return jax.lax.erf(x @ p["a"]) @ p["b"]

    params = shapes(a=(3, 8), b=(8, 2))
    without = {name: rule for name, rule in RULES.items() if name != "erf"}
    frozen = infer(apply, params, jnp.ones((4, 3)), rules=without)
    assert frozen.free == ()
    assert frozen.at("a", 1)[0].frozen_by.startswith("erf (no rule) at test_inference.py:")
    taught = infer(apply, params, jnp.ones((4, 3)), rules={**without, "erf": elementwise})
    assert [group.size for group in taught.free] == [8]


def test_the_first_error_names_the_leaf_and_the_line():
    def apply(p, x):
        return jnp.cumsum(x @ p["hidden"], -1) @ p["out"]

    params = shapes(hidden=(3, 8), out=(8, 2))
    groups = infer(apply, params, jnp.ones((4, 3)))
    (id,) = (group.id for group in groups.at("hidden", 1))
    said = r"hidden: its axis 1 .* frozen by cumsum at test_inference.py:\d+ \(apply\)"
    with pytest.raises(WeightSpaceError, match=said):
        symmetry.permute(params, groups, {id: np.arange(8)})


def test_dropout_says_to_infer_in_evaluation_mode():
    apply, params, inputs = ZOO["dropout"]()
    groups = infer(apply, params, *inputs)
    (hidden,) = groups.at("params/hidden/kernel", 1)
    assert "evaluation mode" in hidden.frozen_by


def test_rows_that_no_operation_takes_are_not_called_free():
    def apply(p, tokens):
        return (p["words"][tokens] + p["position"][: tokens.shape[1]]) @ p["out"]

    params = shapes(words=(7, 6), position=(9, 6), out=(6, 2))
    groups = infer(apply, params, jnp.ones((2, 5), int))
    assert [group.size for group in groups.free] == [6]
    assert groups.at("position", 0)[1].frozen_by.startswith("the trace")


def test_devices_of_a_mesh_keep_their_place():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec

    @jax.jit
    def apply(p, x):
        def local(a, b, x):
            return jax.lax.psum(jnp.tanh(x @ a) @ b, "i")

        specs = P(None, "i"), P("i"), P()
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())(p["a"], p["b"], x)

    params = shapes(a=(3, 8), b=(8, 2))
    groups = infer(apply, params, jnp.ones((4, 3)))
    (hidden,) = groups.free
    assert [site(groups, s) for s in hidden.sites] == ["a[1:2x0:4]+", "b[0:2x0:4]-"]
    assert groups.all[hidden.per[0]].frozen_by.startswith("shard_map")
    assert check(apply, params, groups, jnp.ones((4, 3)), key=jr.key(1)) < 1e-5


def test_loops_and_branches():
    params = shapes(a=(3, 6), w=(6, 6), b=(6,), out=(6, 2))

    def apply(p, x):
        h = jax.lax.while_loop(
            lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1] @ p["w"])), (0, x @ p["a"])
        )[1]
        h = jax.lax.cond(h.sum() > 0, lambda h: h * p["b"], lambda h: -h, h)
        return h @ p["out"]

    groups = infer(apply, params, jnp.ones((4, 3)))
    (hidden,) = groups.free
    assert {(s.name, s.axis) for s in hidden.sites} == {
        ("a", 1),
        ("w", 0),
        ("w", 1),
        ("b", 0),
        ("out", 0),
    }


def test_twelve_blocks_are_walked_in_seconds_on_shapes_alone():
    net = nets.transformer(50, 8, width=16, heads=2, depth=12)
    params = jax.eval_shape(net.init, jr.key(0))
    groups = infer(net.apply, params, jax.ShapeDtypeStruct((1, 8), jnp.int32))
    assert len(groups.free) == 12 * 4 + 1
    stream = max(groups.free, key=lambda group: len(group.sites))
    assert len({s.name for s in stream.sites}) == 12 * 12 + 4
