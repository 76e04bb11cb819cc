"""Merges on disk against formulas in numpy, against the same methods in memory, and in pieces."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

import wslax as ws
from wslax.io.writer import write_tensors
from wslax.merge.files import config, layers, resolve, stream
from wslax.merge.files import recipe as recipes
from wslax.merge.files.plan import make_plan
from wslax.random import bits, uniform

SHAPES = {"h.0.w": (37, 53), "h.0.b": (53,), "h.1.w": (70, 40), "scale": (), "none": (0, 3)}
DTYPES = {"f4": np.float32, "f2": np.float16, "f8": np.float64, "bf16": ml_dtypes.bfloat16}
SETTINGS = {
    "linear": {"weight": [0.2, 0.7]},
    "slerp": {"t": [0.3, 0.6]},
    "nuslerp": {"weight": [0.3, 0.6], "nuslerp_flatten": [True, False]},
    "multislerp": {"weight": 0.7, "normalize_weights": False},
    "karcher": {"max_iter": 4},
    "model_stock": {"filter_wise": [True, False]},
    "task_arithmetic": {"weight": 0.4, "lambda": 1.3},
    "ties": {"weight": 0.5, "density": 0.3},
    "dare_linear": {"weight": 0.5, "density": 0.4},
    "dare_ties": {"weight": 0.5, "density": 0.4},
    "della_linear": {"weight": 0.5, "density": 0.4, "epsilon": 0.2},
    "della": {"weight": 0.5, "density": 0.4, "epsilon": 0.2},
    "breadcrumbs": {"weight": 0.5, "density": 0.4, "gamma": 0.1},
    "breadcrumbs_ties": {"weight": 0.5, "density": 0.4, "gamma": 0.1, "rescale": True},
    "sce": {"select_topk": 0.3},
    "ram": {"epsilon": 0.1},
    "ramplus_tl": {"epsilon": 0.1, "r": 0.5},
    "nearswap": {"t": 0.05},
    "arcee_fusion": {},
    "passthrough": {"scale": 1.7},
}
COUNT = {"slerp": 2, "nuslerp": 2, "passthrough": 1, "nearswap": 1, "arcee_fusion": 1}


def trees(count, dtype, seed=0):
    """A base and members near it."""
    rng = np.random.default_rng(seed)
    base = {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}
    near = [
        {
            k: (x.astype(float) + 0.1 * rng.normal(size=x.shape)).astype(dtype)
            for k, x in base.items()
        }
        for _ in range(count)
    ]
    return base, near


def stored(folder, tree, name):
    ws.io.save(tree, folder / name)
    return str(folder / name)


def written(folder, method, base, members, parameters, **keys):
    """A recipe over the trees, saved."""
    content = {
        "merge_method": method,
        "models": [
            {"model": stored(folder, tree, f"m{i}.safetensors")} for i, tree in enumerate(members)
        ],
        "parameters": parameters,
        **keys,
    }
    if ws.merge.METHODS[method].base in ("required", "optional"):
        content["base_model"] = stored(folder, base, "base.safetensors")
    return content


def merged(folder, content, **options):
    ws.merge.checkpoints(content, folder / "out.safetensors", **options)
    found = ws.io.load(folder / "out.safetensors")
    found = {name: np.array(x) for name, x in found.items()}
    (folder / "out.safetensors").unlink()
    return found


def in_pieces(folder, content, chunk, threads):
    plan = make_plan(config.parse_recipe(content))
    specs = {job.name: job.spec for job in plan.jobs}
    target = folder / f"pieces{chunk}-{threads}.safetensors"
    with write_tensors(target, specs) as (writer, _):
        stream.execute(plan, writer, threads=threads, chunk=chunk)
    return target.read_bytes()


CASES = [(method, "f4") for method in SETTINGS]
CASES += [(method, kind) for method in ("linear", "dare_ties") for kind in ("f2", "f8", "bf16")]
TOLERANCE = {"f4": 1e-6, "f8": 1e-12, "f2": 2e-3, "bf16": 2e-2}


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_equals_the_method_in_memory(tmp_path, method, kind):
    base, members = trees(COUNT.get(method, 3), DTYPES[kind])
    content = written(tmp_path, method, base, members, SETTINGS[method])
    found = merged(tmp_path, content, seed=5)
    recipe, place = config.parse_recipe(content), layers.positions(list(SHAPES))
    piece, given = recipes.pieces(recipe)[""][0], ws.merge.METHODS[method]
    rules = {
        name: resolve.resolve(given, piece, name, [name] * len(piece.members), place[name])
        for name in SHAPES
    }
    params = {
        word: ws.by_leaf({
            name: row[word] if isinstance(first, int) else np.array(row[word])
            for name, row in rules.items()
        })
        for word, first in rules["scale"].items()
    }  # fmt: skip
    with jax.enable_x64(kind == "f8"):
        population = ws.population.stack(members)
        expected = ws.merge.run(ws.merge.METHODS[method], population, base, params, key=5)
    for name in SHAPES:
        assert found[name].dtype == expected[name].dtype == DTYPES[kind]
        a, b = found[name].astype(float), np.asarray(expected[name]).astype(float)
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[kind], atol=TOLERANCE[kind])
        if kind in ("f2", "bf16"):  # float32 inside: equal but for a rare rounding
            assert (a != b).sum() <= 0.01 * a.size + 1


@pytest.mark.parametrize("method", SETTINGS)
def test_any_pieces_and_any_threads_give_the_same_file(tmp_path, method):
    base, members = trees(COUNT.get(method, 3), np.float32)
    content = written(tmp_path, method, base, members, SETTINGS[method])
    whole = in_pieces(tmp_path, content, 1 << 14, 1)
    assert in_pieces(tmp_path, content, 1 << 14, 2) == whole
    assert in_pieces(tmp_path, content, 1 << 14, 5) == whole
    for chunk in (100, 1 << 10):
        found = in_pieces(tmp_path, content, chunk, 2)
        if ws.merge.METHODS[method].rounds({"rescale": False, "normalize": True}):
            a, b = (np.frombuffer(raw[-4 * 4000 :], "<f4") for raw in (found, whole))
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        else:
            assert found == whole


def ties(base, members, weights, density, normalize, rescale, lam):
    """TIES as in mergekit, in float64; equal magnitudes at the threshold are all kept."""
    kept = []
    for member in members:
        delta = member.astype(float) - base
        k = max(1, int(density * delta.size)) if density > 0 else 0
        size = np.sort(np.abs(delta), axis=None)[::-1]
        mask = np.abs(delta) >= size[k - 1] if k else np.zeros(delta.shape, bool)
        trimmed = delta * mask
        if rescale and np.abs(trimmed).sum() > 0:
            trimmed *= np.abs(delta).sum() / np.abs(trimmed).sum()
        kept.append(trimmed)
    vectors = np.array([w * d for w, d in zip(weights, kept, strict=True)])
    sign = np.where(vectors.sum(0) >= 0, 1, -1)
    agree = np.sign(vectors) == sign
    total = (vectors * agree).sum(0)
    if normalize:
        share = np.tensordot(weights, agree.astype(float), 1)
        total /= np.where(np.abs(share) < 1e-8, 1, share)
    return base + lam * total


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(("normalize", "rescale"), [(True, False), (False, True)])
def test_ties_is_its_formula(tmp_path, density, normalize, rescale):
    base, members = trees(3, np.float64)
    weights = [0.5, 1.0, -0.3]
    settings = {"density": density, "normalize": normalize, "rescale": rescale, "lambda": 0.8}
    content = written(tmp_path, "ties", base, members, settings)
    for entry, weight in zip(content["models"], weights, strict=True):
        entry["parameters"] = {"weight": weight}
    found = merged(tmp_path, content)
    for name in SHAPES:
        if base[name].size:
            rest = (weights, density, normalize, rescale, 0.8)
            expected = ties(base[name], [tree[name] for tree in members], *rest)
            np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-12)


def test_linear_and_task_arithmetic_are_their_formulas(tmp_path):
    base, (a, b) = trees(2, np.float32)
    found = merged(tmp_path, written(tmp_path, "linear", base, [a, b], {"weight": [3, 1]}))
    weight = {"h.0.w": 3, "h.0.b": 3, "h.1.w": 1, "scale": 3, "none": 3}
    for name in SHAPES:  # both members have the same weight at each layer: the plain mean
        np.testing.assert_allclose(found[name], (a[name] + b[name]) / 2, rtol=1e-5, atol=1e-6)
    content = written(tmp_path, "linear", base, [a, b], {"weight": [3, 1], "normalize": False})
    found = merged(tmp_path, content)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], weight[name] * (a[name] + b[name]), rtol=1e-5)
    content = written(tmp_path, "task_arithmetic", base, [a, b], {"weight": 2, "lambda": 0.5})
    found = merged(tmp_path, content)
    for name in SHAPES:
        expected = a[name] + b[name] - base[name]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_slerp_is_its_formula_and_straight_between_parallels(tmp_path):
    base, (a, b) = trees(2, np.float64)
    b["h.1.w"] = 2 * a["h.1.w"]
    found = merged(tmp_path, written(tmp_path, "slerp", base, [a, b], {"t": 0.25}))
    x, y = a["h.0.w"].ravel(), b["h.0.w"].ravel()
    theta = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    expected = (np.sin(0.75 * theta) * x + np.sin(0.25 * theta) * y) / np.sin(theta)
    np.testing.assert_allclose(found["h.0.w"].ravel(), expected, rtol=1e-9)
    np.testing.assert_allclose(found["h.1.w"], 1.25 * a["h.1.w"], rtol=1e-12)


def test_dare_drops_by_the_documented_words(tmp_path):
    base, members = trees(2, np.float32)
    settings = {"density": 0.3, "rescale": False}
    found = merged(tmp_path, written(tmp_path, "dare_linear", base, members, settings), seed=9)
    for name in ("h.0.w", "h.1.w"):
        expected = base[name].copy()
        for i, tree in enumerate(members):
            words = bits(9, f"{name}#keep", base[name].size, member=i)
            keep = (uniform(words) < np.float32(0.3)).reshape(base[name].shape)
            expected += keep * (tree[name] - base[name])
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_large_tensors_are_sampled_and_exact(tmp_path):
    rng = np.random.default_rng(0)
    size = 300_000
    base = {"w": rng.normal(size=size).astype(np.float32)}
    delta = (rng.standard_cauchy(size) * np.linspace(0, 1, size)).astype(np.float32)
    member = {"w": base["w"] + delta}
    content = written(tmp_path, "ties", base, [member], {"density": 0.1})
    found = merged(tmp_path, content)["w"]
    exact = member["w"] - base["w"]
    edge = np.sort(np.abs(exact))[-int(0.1 * size)]
    assert (found != base["w"]).sum() == np.sum(np.abs(exact) >= edge)


def test_variances_of_large_tensors_count_where_they_are_not_zero(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 300_000)).astype(np.float32)
    x[1, :200_000] = x[0, :200_000]
    base, members = {"w": np.zeros(300_000, np.float32)}, [{"w": row} for row in x]
    content = written(tmp_path, "sce", base, members, {"select_topk": 0.25})
    found = merged(tmp_path, content)["w"]
    gap = np.abs(x[0] - x[1])
    assert ((found != 0) == (gap >= np.sort(gap)[-25_000])).all()


def test_columns_have_angles_of_their_own(tmp_path):
    base, (a, b) = trees(2, np.float64)
    settings = {"nuslerp_flatten": False, "nuslerp_row_wise": True, "weight": [1, 1]}
    found = merged(tmp_path, written(tmp_path, "nuslerp", base, [a, b], settings))["h.0.w"]
    d, e = a["h.0.w"] - base["h.0.w"], b["h.0.w"] - base["h.0.w"]
    cosine = (d * e).sum(0) / np.linalg.norm(d, axis=0) / np.linalg.norm(e, axis=0)
    expected = base["h.0.w"] + (d + e) / (2 * np.cos(np.arccos(cosine) / 2))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_thresholds_of_few_values_take_the_slow_way_and_are_exact(tmp_path):
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(300_000, np.float32)}
    member = {"w": rng.choice(np.float32([0, 0.5, 1, -1, 2]), 300_000)}
    content = written(tmp_path, "ties", base, [member], {"density": 0.3})
    found = merged(tmp_path, content)["w"]
    assert (found == np.where(np.abs(member["w"]) >= 1, member["w"], 0)).all()


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ({}, np.float32),
        ({"dtype": "bfloat16"}, ml_dtypes.bfloat16),
        ({"dtype": "float32", "out_dtype": "float16"}, np.float16),
        ({"out_dtype": "float64"}, np.float64),
    ],
)
def test_stored_dtypes(tmp_path, keys, dtype):
    base, (a, b) = trees(2, np.float32)
    a = {name: x.astype(ml_dtypes.bfloat16) for name, x in a.items()}
    found = merged(tmp_path, written(tmp_path, "linear", base, [a, b], {}, **keys))
    for name in SHAPES:
        assert found[name].dtype == dtype
        expected = (a[name].astype(np.float32) + b[name]) / 2
        np.testing.assert_allclose(found[name].astype(float), expected, rtol=1e-2, atol=1e-3)


def test_integers_are_kept_when_equal_and_refused_when_not(tmp_path):
    base, members = trees(2, np.float32)
    for tree in members:
        tree["ids"] = np.arange(300_000)
    content = written(tmp_path, "linear", base, members, {})
    assert (merged(tmp_path, content)["ids"] == np.arange(300_000)).all()
    members[1]["ids"] = members[1]["ids"] + 1
    content = written(tmp_path, "linear", base, members, {})
    with pytest.raises(ws.WeightSpaceError, match="ids: int64 tensors are not averaged, and"):
        merged(tmp_path, content)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
@pytest.mark.parametrize("threads", [1, 3])
def test_nonfinite_weights_end_the_merge(tmp_path, method, bad, threads):
    base, members = trees(2, np.float32)
    members[1]["h.1.w"][3, 4] = bad
    content = written(tmp_path, method, base, members, SETTINGS[method])
    with pytest.raises(ws.WeightSpaceError, match=r"h\.1\.w: .*m1\.safetensors holds NaN or inf"):
        merged(tmp_path, content, threads=threads)
    assert not list(tmp_path.glob("out*"))


def test_legal_infinities_are_copied_when_all_agree(tmp_path):
    base, members = trees(2, np.float32)
    for tree in (base, *members):
        tree["h.0.b"] = np.full(53, -np.inf, np.float32)
    content = written(tmp_path, "ties", base, members, {})
    found = merged(tmp_path, content, allow_nonfinite=["*.b"])
    assert (found["h.0.b"] == -np.inf).all()
    members[0]["h.0.b"][7] = 0
    content = written(tmp_path, "ties", base, members, {})
    with pytest.raises(ws.WeightSpaceError, match=r"h\.0\.b: may hold NaN or infinity, so it is"):
        merged(tmp_path, content, allow_nonfinite=["*.b"])
    with pytest.raises(ws.WeightSpaceError, match="matches no tensor"):
        merged(tmp_path, content, allow_nonfinite=["*.c"])


def test_overflow_of_the_stored_dtype_is_found_and_large_values_are_not(tmp_path):
    base, members = trees(2, np.float32)
    content = written(tmp_path, "linear", base, members, {"weight": 1e6, "normalize": False})
    with pytest.raises(ws.WeightSpaceError, match="the result overflows float16"):
        merged(tmp_path, {**content, "out_dtype": "float16"})
    huge = [{name: x * np.float32(1e30) for name, x in tree.items()} for tree in members]
    report = ws.merge.checkpoints(written(tmp_path, "linear", base, huge, {}), tmp_path / "huge")
    assert 1e30 < report.norm < 1e33


def test_the_report_measures_norm_and_distances(tmp_path):
    base, members = trees(2, np.float32)
    content = written(tmp_path, "task_arithmetic", base, members, {"weight": 0.5})
    report = ws.merge.checkpoints(content, tmp_path / "out")
    found = ws.io.load(tmp_path / "out")

    def norm(tree, other=None):
        gaps = [x - (other[name] if other else 0) for name, x in tree.items()]
        return np.sqrt(sum(np.sum(np.square(gap, dtype=float)) for gap in gaps))

    assert report.norm == pytest.approx(norm(found), rel=1e-5)
    expected = [norm(found, tree) for tree in (*members, base)]
    assert [parent.distance for parent in report.parents] == pytest.approx(expected, rel=1e-5)


def test_the_folder_says_where_it_came_from_and_repeats(tmp_path):
    base, members = trees(2, np.float32)
    folders = []
    for name, tree in {"base": base, "a": members[0], "b": members[1]}.items():
        folder = tmp_path / name
        ws.io.save(tree, folder)
        (folder / "config.json").write_text(json.dumps({"from": name}))
        (folder / "tokenizer.json").write_text("{}")
        folders.append(str(folder))
    content = {
        "merge_method": "dare_ties",
        "base_model": folders[0],
        "models": [{"model": path, "parameters": {"weight": [0, 1]}} for path in folders[1:]],
        "parameters": {"density": 0.5},
    }
    out, again = tmp_path / "out", tmp_path / "again"
    ws.merge.checkpoints(content, out, seed=3, shard_bytes=12_000, digests=True)
    notes = json.loads((out / "wslax_merge.json").read_text())
    assert notes["seed"] == 3
    assert len(notes["inputs"]) == 3
    assert all(len(file["sha256"]) == 64 for file in notes["inputs"])
    assert json.loads((out / "config.json").read_text()) == {"from": "base"}
    assert (out / "tokenizer.json").exists()
    assert (out / "model.safetensors.index.json").exists()
    ws.merge.checkpoints(out / "mergekit_config.yml", again, seed=3)
    first, second = ws.io.load(out), ws.io.load(again)
    assert all((first[name] == second[name]).all() for name in SHAPES)


def test_progress_counts_every_byte_once(tmp_path):
    base, members = trees(2, np.float32)
    steps = []
    content = written(tmp_path, "linear", base, members, {})
    report = ws.merge.checkpoints(content, tmp_path / "out", progress=steps.append)
    assert sum(steps) == report.written == 4 * sum(int(np.prod(s)) for s in SHAPES.values())


def test_giving_up_keeps_nothing(tmp_path):
    base, members = trees(2, np.float32)
    content = written(tmp_path, "linear", base, members, {})

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ws.merge.checkpoints(content, tmp_path / "out", progress=stop)
    assert not list(tmp_path.glob("out*"))
