"""The caches of transformers as pytrees: there and back, in any state, by whatever a tree is filled with."""

import copy
import json

import pytest
import torch
from torch.utils import _pytree as pytree
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    LinearAttentionLayer,
    StaticCache,
)
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.mistral.configuration_mistral import MistralConfig

from fxopt.errors import InputError
from fxopt.program.caches import register_caches
from fxopt.program.trees import tree_from_json, tree_to_json

register_caches()
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}


def filled(cache, length: int = 3, layers: int = 2):
    for i in range(layers):
        cache.update(torch.randn(2, 2, length, 8), torch.randn(2, 2, length, 8), i)
    return cache


def linear() -> DynamicCache:
    cache = DynamicCache()
    cache.layers = [LinearAttentionLayer(number_of_states=2), DynamicLayer()]
    cache.update_conv_state(torch.randn(2, 4, 3), 0)
    cache.update_recurrent_state(torch.randn(2, 4, 5), 0)
    cache.update(torch.randn(2, 2, 3, 8), torch.randn(2, 2, 3, 8), 1)
    return cache


CACHES = {
    "nothing yet": DynamicCache,
    "dynamic": lambda: filled(DynamicCache()),
    "from a config": lambda: filled(DynamicCache(config=LlamaConfig(**SIZES))),
    "one layer filled": lambda: filled(DynamicCache(config=LlamaConfig(**SIZES)), layers=1),
    "sliding": lambda: filled(DynamicCache(config=MistralConfig(**SIZES, sliding_window=8))),
    "beyond its window": lambda: filled(
        DynamicCache(config=MistralConfig(**SIZES, sliding_window=4)), length=6
    ),
    "static": lambda: filled(StaticCache(LlamaConfig(**SIZES), max_cache_len=5)),
    "linear": linear,
    "both": lambda: EncoderDecoderCache(filled(DynamicCache()), filled(DynamicCache(), 4)),
}


@pytest.fixture(params=list(CACHES))
def cache(request):
    return CACHES[request.param]()


def test_there_and_back(cache):
    leaves, tree = pytree.tree_flatten(cache)
    again = pytree.tree_unflatten(leaves, tree)
    assert type(again) is type(cache)
    assert pytree.tree_structure(again) == tree
    assert all(a is b for a, b in zip(pytree.tree_leaves(again), leaves, strict=True))
    assert len(again) == len(cache)


@pytest.mark.parametrize("name", ["dynamic", "from a config", "sliding", "static"])
def test_the_same_cache_goes_on_in_the_same_way(name: str):
    cache = CACHES[name]()
    again = pytree.tree_map(torch.clone, cache)
    assert int(again.get_seq_length()) == int(cache.get_seq_length()) == 3
    more = torch.randn(2, 2, 1, 8), torch.randn(2, 2, 1, 8)
    for twin in zip(cache.update(*more, 1), again.update(*more, 1), strict=True):
        assert torch.equal(*twin)
    assert again.get_mask_sizes(1, 1) == cache.get_mask_sizes(1, 1)


def test_a_linear_layer_goes_on_in_the_same_way():
    cache = linear()
    again = pytree.tree_map(torch.clone, cache)
    assert again.layers[0].has_previous_state == cache.layers[0].has_previous_state == {0: True, 1: False}
    step = torch.randn(2, 4, 1)
    assert torch.equal(cache.update_conv_state(step, 0), again.update_conv_state(step, 0))


@pytest.mark.parametrize("filling", [0, None, "x"])
def test_a_tree_may_be_filled_with_anything(cache, filling: object):
    tree = pytree.tree_structure(cache)
    assert pytree.tree_structure(pytree.tree_map(lambda _: filling, cache)) == tree


def test_names_of_the_leaves():
    paths, _ = pytree.tree_flatten_with_path(CACHES["static"]())
    assert [pytree.keystr(p) for p, _ in paths] == [
        "['key_cache'][0]", "['key_cache'][1]", "['value_cache'][0]", "['value_cache'][1]",
        "['length'][0]", "['length'][1]",
    ]  # fmt: skip


def test_a_file_brings_the_cache_back(cache):
    tree = pytree.tree_structure(cache)
    assert tree_from_json(json.loads(json.dumps(tree_to_json(tree)))) == tree


def test_a_file_with_another_layout_gives_a_dict():
    written = json.loads(json.dumps(tree_to_json(pytree.tree_structure(CACHES["dynamic"]()))))
    for change in (["key_cache"], [["key_cache", "value_cache"], [["os", {}, ["keys"], []]], True], None, 3):
        wrong = copy.deepcopy(written)
        wrong[3]["context"] = change
        assert tree_from_json(wrong).type is dict


def test_a_window_that_tokens_fell_out_of_keeps_its_count():
    cache = CACHES["beyond its window"]()
    assert isinstance(cache.layers[0], DynamicSlidingWindowLayer)
    assert [leaf for leaf in pytree.tree_leaves(cache) if isinstance(leaf, int)] == [6, 6]
    again = pytree.tree_map(lambda x: x, cache)
    assert again.get_seq_length() == 6 and again.layers[0].keys.shape[-2] == 3
    assert again.get_mask_sizes(1, 0) == cache.get_mask_sizes(1, 0)


def test_a_cache_that_counts_in_python_is_refused():
    with pytest.raises(InputError, match=r"StaticSlidingWindowLayer counts.*DynamicCache\(\)"):
        pytree.tree_flatten(filled(StaticCache(MistralConfig(**SIZES, sliding_window=4), max_cache_len=8)))
