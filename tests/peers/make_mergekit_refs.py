"""Write tests/merge/mergekit_refs.json: what mergekit 0.1.5 makes of tiny inputs.

python tests/peers/make_mergekit_refs.py        (in an environment with mergekit 0.1.5)
"""

import base64
import json
import pathlib

import numpy as np

TARGET = pathlib.Path(__file__).parents[1] / "merge" / "mergekit_refs.json"
MIXED = {"weight": [0.2, 0.5, 0.9]}
BASED = True

# (method, mergekit's parameters, members, BASED with an optional base); per-member parameters are
# lists.
CASES = [
    ("linear", {**MIXED}, 3),
    ("linear", {**MIXED, "normalize": False}, 3),
    ("linear", {"weight": [1.0, -0.5, 0.2]}, 3),
    ("linear", {"weight": [0.3]}, 1),
    ("slerp", {"t": 0.0}, 2),
    ("slerp", {"t": 0.3}, 2),
    ("slerp", {"t": 1.4}, 2),
    ("task_arithmetic", {**MIXED}, 3),
    ("task_arithmetic", {**MIXED, "lambda": 0.7, "normalize": True}, 3),
    ("task_arithmetic", {"weight": [0.5, -0.5, 0.0], "normalize": True}, 3),
    ("ties", {**MIXED}, 3),
    ("ties", {**MIXED, "density": [0.2, 0.5, 0.9]}, 3),
    ("ties", {**MIXED, "density": 0.01, "lambda": 1.5}, 3),
    ("ties", {**MIXED, "density": 0.0}, 3),
    ("ties", {**MIXED, "density": 0.4, "normalize": False, "rescale": True}, 3),
    ("ties", {"weight": [0.5, -0.4, 0.3], "density": 0.6}, 3),
    ("ties", {"weight": 1e-9}, 3),
    ("dare_linear", {**MIXED}, 3),
    ("dare_linear", {**MIXED, "density": 0.0, "normalize": True}, 3),
    ("dare_ties", {**MIXED, "lambda": 0.7}, 3),
    ("dare_ties", {**MIXED, "normalize": True, "rescale": False}, 3),
    ("nuslerp", {"weight": [0.3, 0.9]}, 2),
    ("nuslerp", {"weight": [0.3, 0.9]}, 2, BASED),
    ("nuslerp", {"weight": [0.5, -0.5], "nuslerp_flatten": False}, 2),
    ("nuslerp", {"weight": [0.5, 0.1], "nuslerp_flatten": False}, 2, BASED),
    ("nuslerp", {"weight": 1.0, "nuslerp_flatten": False, "nuslerp_row_wise": True}, 2, BASED),
    ("multislerp", {**MIXED}, 3),
    ("multislerp", {**MIXED}, 3, BASED),
    ("multislerp", {**MIXED, "normalize_weights": False}, 3, BASED),
    ("multislerp", {"weight": [0.3, 0.4], "eps": 1e-3}, 2, BASED),
    ("multislerp", {"weight": 0.7}, 1, BASED),
    ("karcher", {}, 3),
    ("karcher", {"max_iter": 1}, 3),
    ("karcher", {"max_iter": 50, "tol": 1e-3}, 2),
    ("karcher", {}, 1),
    ("model_stock", {}, 3),
    ("model_stock", {"filter_wise": True}, 3),
    ("model_stock", {"filter_wise": True}, 2),
    ("breadcrumbs", {**MIXED}, 3),
    ("breadcrumbs", {**MIXED, "density": 0.5, "gamma": 0.1}, 3),
    ("breadcrumbs", {**MIXED, "density": [0.9, 0.5, 0.1], "gamma": 0.3, "rescale": True}, 3),
    ("breadcrumbs", {**MIXED, "density": 0.0, "normalize": True}, 3),
    ("breadcrumbs_ties", {**MIXED, "density": 0.6, "gamma": [0.0, 0.1, 0.2], "lambda": 1.2}, 3),
    ("breadcrumbs_ties", {**MIXED, "density": 0.6, "gamma": 0.9, "normalize": True}, 3),
    ("della_linear", {**MIXED}, 3),
    ("della_linear", {**MIXED, "density": 0.0}, 3),
    ("della", {**MIXED, "lambda": 0.7}, 3),
    ("sce", {}, 3),
    ("sce", {"select_topk": 0.5}, 3),
    ("sce", {"select_topk": 0.1}, 2),
    ("sce", {"select_topk": 0.0}, 3),
    ("ram", {}, 3),
    ("ram", {"epsilon": 0.1}, 3),
    ("ramplus_tl", {}, 3),
    ("ramplus_tl", {"r": 0.7, "alpha": 3.0, "epsilon": 0.1}, 3),
    ("nearswap", {"t": 0.1}, 1),
    ("nearswap", {"t": 1e-9}, 1),
    ("passthrough", {}, 1),
    ("passthrough", {"scale": [2.5]}, 1),
]


def inputs():
    """Leaves of a base and three members, float32."""
    rng = np.random.default_rng(5)
    plain = rng.normal(size=(4, 5, 6))
    base = rng.normal(size=7)
    return {
        "plain": plain,
        "vector": np.stack([base, *(base + 0.1 * rng.normal(size=(3, 7)))]),
        # parallel to within slerp's threshold, and opposite
        "parallel": np.stack([base, 1.5 * base + 0.01 * rng.normal(size=7), 2 * base, -base]),
        "zero": np.zeros((4, 3)),
        # sums below the rescaling guard
        "tiny": np.concatenate([np.zeros((1, 4)), 1e-9 * rng.normal(size=(3, 4))]),
        # many equal magnitudes, sums of zero
        "signs": np.concatenate([np.zeros((1, 9)), rng.integers(-1, 2, (3, 9))]),
    }


def left_out(method, parameters, count):
    """Leaves of which mergekit makes nothing that could be compared."""
    if {"density", "select_topk"} & set(parameters):
        return {"signs"}  # which of equal magnitudes or variances it keeps is arbitrary
    if method == "multislerp":
        return {"zero"}  # no direction: an error
    # The logarithm at an opposite vector is rounding in float32.
    return {"parallel"} if method == "karcher" and count > 2 else set()


def merged(method, parameters, stack, based):
    """One leaf by mergekit; slerp interpolates from the first member, which is its base."""
    import torch
    from mergekit.merge_methods import merge_tensors

    tensors = [torch.tensor(x) for x in (stack if based else stack[1:])]
    first = 0 if based or method == "slerp" else None
    return merge_tensors(tensors, method, parameters=parameters, base_index=first).numpy()


def fusion():
    """What arcee_fusion takes of a matrix of 64 rows: float16 inputs and a bit an entry, base64."""
    base, other = np.random.default_rng(6).normal(size=(2, 64, 48)).astype(np.float16)
    member = (base + np.float16(0.1) * other).astype(np.float16)
    stack = np.stack([base, member]).astype(np.float32)
    taken = merged("arcee_fusion", {}, stack, True) != stack[0]
    arrays = {"base": base, "member": member, "taken": np.packbits(taken)}
    return {name: base64.b64encode(x.tobytes()).decode() for name, x in arrays.items()}


def main():
    """Compute and write."""
    from mergekit.merge_methods import get
    from mergekit.merge_methods.base import BasePolicy

    leaves = {name: x.astype(np.float32) for name, x in inputs().items()}
    cases = []
    for method, parameters, count, *based in CASES:
        required = get(method).spec.contract.base is BasePolicy.REQUIRED and method != "slerp"
        based = required or bool(based)
        names = [name for name in leaves if name not in left_out(method, parameters, count)]
        out = {
            name: merged(method, parameters, leaves[name][: count + 1], based).tolist()
            for name in names
        }
        case = {"method": method, "parameters": parameters, "members": count, "based": based}
        cases.append({**case, "out": out})
    content = {
        "mergekit": "0.1.5",
        "inputs": {name: x.tolist() for name, x in leaves.items()},
        "arcee_fusion": fusion(),
        "cases": cases,
    }
    text = json.dumps(
        json.loads(json.dumps(content), parse_float=lambda x: float(f"{float(x):.9g}"))
    )
    TARGET.write_text(text.replace('{"method"', '\n{"method"') + "\n")


if __name__ == "__main__":
    main()
