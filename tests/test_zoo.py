"""The shared models build, run and are the same each time."""

import torch

from tests import zoo


def test_digits_is_trained():
    module, _ = zoo.model("digits")
    _, _, x, y = zoo.digits_data()
    with torch.no_grad():
        assert float((module(x).argmax(1) == y).double().mean()) > 0.95


def test_a_model_is_built_once_and_from_a_fixed_seed():
    module, args = zoo.model("mlp")
    assert zoo.model("mlp") is zoo.model("mlp")
    state = torch.random.get_rng_state()
    zoo._build.cache_clear()
    again, again_args = zoo.model("mlp")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))
    assert torch.equal(args[0], again_args[0])


def test_statistics_are_not_trivial():
    for name in ("mlp", "unet"):
        means = [b for n, b in zoo.model(name)[0].named_buffers() if n.endswith("running_mean")]
        assert means
        assert all(bool((m != 0).all()) for m in means)
