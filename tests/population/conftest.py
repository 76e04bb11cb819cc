"""One small population trained on real digits, for all tests here."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import data, nets, population

RATES = (0.0, 0.003, 0.01, 0.03)
NET = nets.mlp(64, (32,), 10)


def loss(params, batch, key, member):
    x, y = batch
    logits = NET.apply(params, x)
    return nets.cross_entropy(logits, y), {"accuracy": nets.accuracy(logits, y)}


class Trained(NamedTuple):
    trainer: Any
    before: Any
    after: Any
    metrics: Any
    batches: Any
    key: Any
    split: Any


@pytest.fixture(scope="session")
def trained():
    """Four members with learning rates of their own, 150 steps of 64 digits."""
    split = data.digits()
    rows = np.random.default_rng(0).integers(0, len(split.train[1]), (150, 64))
    batches = tuple(jnp.asarray(part[rows]) for part in split.train)
    trainer = population.step_from_loss(loss, optax.inject_hyperparams(optax.adam)(0.0))
    params = population.init(NET.init, jax.random.key(0), len(RATES))
    before = jax.jit(jax.vmap(trainer.init))(params, None, {"learning_rate": jnp.asarray(RATES)})
    key = jax.random.key(1)
    after, metrics = population.train(trainer.step, before, batches, key=key, segment=60)
    return Trained(trainer, before, after, metrics, batches, key, split)
