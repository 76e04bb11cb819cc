"""Six convolutions and a linear read-out, without normalisation: a small VGG."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

import wslax as ws


class Vgg(nn.Module):
    """Logits from images `[B, 32, 32, 3]`."""

    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The logits."""
        for stage in range(3):
            for half in range(2):
                channels = self.width * 2**stage
                init = nn.initializers.he_normal()
                conv = nn.Conv(channels, (3, 3), kernel_init=init, name=f"conv_{stage}_{half}")
                x = nn.relu(conv(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10, name="out")(x.mean((1, 2)))


def vgg(width: int) -> ws.nets.Net:
    """Channels `width`, twice and four times that, two layers each."""
    module = Vgg(width)
    init = lambda key: module.init(key, jnp.zeros((1, 32, 32, 3)))["params"]
    return ws.nets.Net(init, lambda params, x: module.apply({"params": params}, x))
