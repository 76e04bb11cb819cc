# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Two nets, trained apart, merged to one
#
# Two nets start from different random weights and each sees one half of the data. Their plain average
# loses part of what both know, because their hidden units stand in different orders. Put into one
# order first, the same average keeps most of it. Runs in under a minute on a CPU.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/wslax/wslax/blob/main/notebooks/align.ipynb)

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("wslax") is None:
    source = "wslax[run] @ git+https://github.com/wslax/wslax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import wslax as ws

train, _, test = ws.data.digits()
net = ws.nets.mlp(64, (256, 256), 10)

# %% [markdown]
# ## Train apart
#
# One net on the even images, one on the odd ones: a population of two, trained in one program.

# %%
x, y = (jnp.stack([array[0::2][:500], array[1::2][:500]]) for array in train)
optimizer = optax.adam(1e-3)


def fit(key, x, y):
    params = net.init(key)
    loss = lambda p: ws.nets.cross_entropy(net.apply(p, x), y)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[0][0]


pair = jax.jit(jax.vmap(fit))(jax.random.split(jax.random.key(0)), x, y)
a, b = ws.population.unstack(pair)


def accuracy(params):
    return float(ws.nets.accuracy(net.apply(params, test[0]), test[1]))


print(f"first {accuracy(a):.1%}, second {accuracy(b):.1%} on test images")

# %% [markdown]
# ## Which axes belong together?
#
# The trace of the net says which axes of which leaves are one hidden dimension. Permuting its units
# changes the weights and not the function.

# %%
groups = ws.symmetry.infer(net.apply, a, test[0])
print(groups.table())
moved = ws.symmetry.permute(a, groups, ws.symmetry.random_permutation(jax.random.key(1), groups))
change = jnp.abs(net.apply(moved, test[0]) - net.apply(a, test[0])).max()
print(f"units in another order: no logit moves by more than {change:.0e}")

# %% [markdown]
# ## Align, then average

# %%
order = jax.jit(ws.align.weight_matching, static_argnums=2)(a, b, groups)
aligned = ws.symmetry.permute(b, groups, order)
print(f"aligned, the second still reads {accuracy(aligned):.1%}")

average = lambda one, other: ws.merge.linear(ws.population.stack([one, other]))
print(f"plain average {accuracy(average(a, b)):.1%}")
print(f"aligned average {accuracy(average(a, aligned)):.1%}")

# %% [markdown]
# ## The way between them
#
# On the straight line from one net to the other the loss rises to a barrier; for the aligned pair
# most of it is gone.

# %%
loss = jax.jit(lambda p: ws.nets.cross_entropy(net.apply(p, test[0]), test[1]))
figure, axes = plt.subplots(figsize=(7, 3.5))
for label, other in {"as trained": b, "aligned": aligned}.items():
    found = ws.align.barrier(loss, a, other)
    axes.plot(found.at, found.losses, label=f"{label}: barrier {found.height:.2f}")
axes.set_xlabel("from the first net to the second")
axes.set_ylabel("test loss")
axes.legend()
figure.tight_layout()
