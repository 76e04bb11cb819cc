"""The stream: one definition everywhere, and random enough by tests that can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax import WeightSpaceError, random

N = 1 << 20


def reference(key: int, name: str, member: int, index: int) -> int:
    """The documented hash in Python integers, written apart from the module."""
    import hashlib

    def mul(x, m):
        return (x * m) & 0xFFFFFFFF

    def permute(x, tweak):
        x = mul(x ^ (x >> 17), 0xED5AD4BB)
        x = mul((x ^ (x >> 11)) ^ tweak, 0xAC4C1B51)
        x = mul(x ^ (x >> 15), 0x31848BAB)
        return x ^ (x >> 14)

    digest = hashlib.blake2b(name.replace(".", "/").encode(), digest_size=8).digest()
    words = [key >> 32, key & 0xFFFFFFFF]
    words += [int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")]
    a, b = 0x243F6A88, 0x85A308D3 ^ 1
    for word in [*words, member, index >> 32]:
        a, b = permute(a ^ word, b), permute((b + word) & 0xFFFFFFFF, a)
    return permute(((index & 0xFFFFFFFF) + a) & 0xFFFFFFFF, b)


def test_the_stream_is_frozen():
    """Changing any of these changes every published result: raise STREAM_VERSION with it."""
    words = random.bits(0, "encoder/dense/kernel", 4, member=3)
    assert [int(w) for w in words] == [reference(0, "encoder/dense/kernel", 3, i) for i in range(4)]
    assert random.STREAM_VERSION == 1


@given(
    key=st.integers(0, 2**64 - 1),
    member=st.integers(0, 2**32 - 1),
    start=st.integers(0, 2**40),
    name=st.text(max_size=20),
)
@settings(deadline=None, max_examples=50)
def test_numpy_equals_the_reference(key, member, start, name):
    words = random.bits(key, name, 3, member=member, start=start)
    assert [int(w) for w in words] == [reference(key, name, member, start + i) for i in range(3)]


def test_a_chunk_may_cross_two_to_the_thirty_second():
    start = 2**32 - 2
    words = random.bits(5, "w", 4, start=start)
    assert [int(w) for w in words] == [reference(5, "w", 0, start + i) for i in range(4)]
    assert (words == np.asarray(random.bits(5, "w", 4, start=start, xp=jnp))).all()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_jax_numpy_jit_and_vmap_give_the_same_words(impl):
    key = jax.random.key(11, impl=impl)
    host = [random.bits(11, "a/b", 257, member=m) for m in range(3)]

    def draw(key, member):
        return random.bits(key, "a/b", 257, member=member, xp=jnp)

    assert (np.asarray(jax.jit(draw)(key, 1)) == host[1]).all()
    assert (np.asarray(jax.vmap(draw, (None, 0))(key, jnp.arange(3))) == np.stack(host)).all()
    assert (np.asarray(draw(jax.random.PRNGKey(11), 2)) == host[2]).all()


@pytest.mark.parametrize("key", ["seed", 1.5, np.zeros(3), np.zeros((2, 2), np.uint32)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(WeightSpaceError, match="expected one key or an integer seed"):
        random.bits(key, "w", 4)


STREAMS = [("x", 0), ("x", 1), ("x", 2), ("y", 0)]


@pytest.fixture(scope="module")
def streams():
    return np.stack([random.bits(2024, name, N, member=m) for name, m in STREAMS])


def test_every_bit_is_fair(streams):
    for stream in streams:
        ones = np.unpackbits(stream.view(np.uint8)).reshape(-1, 32).sum(0)
        assert np.abs(ones - N / 2).max() < 5 * np.sqrt(N / 4)


def test_bytes_and_pairs_are_uniform(streams):
    """Chi-square of each byte, and of neighbouring top bytes as pairs; 6 sigma."""
    for stream in streams:
        for counts in [
            *(np.bincount((stream >> shift) & 255, minlength=256) for shift in (0, 8, 16, 24)),
            np.bincount((stream[:-1] >> 24) * 256 + (stream[1:] >> 24), minlength=65536),
        ]:
            expected, free = counts.sum() / counts.size, counts.size - 1
            chi2 = ((counts - expected) ** 2 / expected).sum()
            assert abs(chi2 - free) < 6 * np.sqrt(2 * free)


def test_streams_are_uncorrelated_at_all_small_lags(streams):
    u = streams.astype(np.float64) / 2**32 - 0.5
    spectra = np.fft.rfft(u, axis=1)
    for i in range(len(u)):
        for j in range(i, len(u)):
            lags = np.fft.irfft(spectra[i] * spectra[j].conj(), N)[:4096] / (N / 12)
            lags = lags[1:] if i == j else lags
            assert np.abs(lags).max() < 6 / np.sqrt(N)


@pytest.mark.parametrize("bit", [0, 7, 31])
def test_every_input_avalanches(bit):
    """Flipping one bit of the key, member or index flips half of the output bits."""

    def flips(a, b):
        return np.unpackbits((a ^ b).view(np.uint8)).mean()

    n = 1 << 14
    base = random.bits(1, "w", n, member=1)
    assert abs(flips(base, random.bits(1 ^ (1 << bit), "w", n, member=1)) - 0.5) < 0.005
    assert abs(flips(base, random.bits(1, "w", n, member=1 ^ (1 << bit))) - 0.5) < 0.005
    start = 1 << bit
    assert abs(flips(base, random.bits(1, "w", n, member=1, start=start)) - 0.5) < 0.02


def test_sums_over_members_are_as_spread_as_independent_ones():
    """The statistic a merge uses: the mean over members at one element."""
    members = np.stack([random.uniform(random.bits(3, "w", 4096, member=m)) for m in range(64)])
    variance = members.mean(0).var() * 64 * 12
    assert abs(variance - 1) < 6 * np.sqrt(2 / 4096)


def test_uniform_and_normal_have_their_moments():
    words = random.bits(9, "w", N)
    u = random.uniform(words)
    assert u.dtype == np.float32
    assert u.min() >= 0
    assert u.max() < 1
    z = np.asarray(random.normal(jnp.asarray(words)), np.float64)
    assert abs(z.mean()) < 6 / np.sqrt(N)
    assert abs(z.var() - 1) < 6 * np.sqrt(2 / N)
    assert abs((z**4).mean() - 3) < 6 * np.sqrt(96 / N)
    extremes = random.normal(jnp.array([0, 2**32 - 1], jnp.uint32))
    assert np.isfinite(extremes).all()
