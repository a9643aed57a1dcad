"""Decoders: caches in and out, prefill and decode, the model's own tokens from the artifact."""

import pytest
import torch
from torch import nn

import fxopt
from tests.zoo import tokens

SMALL = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
CACHE = {0: "batch", 2: "past"}


def decoder(kind: str) -> nn.Module:
    import transformers as t

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            sizes = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
            return t.GPT2LMHeadModel(t.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
        return t.LlamaForCausalLM(t.LlamaConfig(**SMALL)).eval()


def prefill_and_decode(model: nn.Module) -> dict[str, fxopt.Program]:
    ids = tokens(2, 5, 60)
    with torch.no_grad():
        cache = model(input_ids=ids).past_key_values
    prefill = fxopt.trace(
        model, None, {"input_ids": ids}, dynamic_shapes={"input_ids": {0: "batch", 1: "length"}}
    )
    decode = fxopt.trace(
        model,
        None,
        {"input_ids": ids[:, -1:], "past_key_values": cache},
        dynamic_shapes={"input_ids": {0: "batch"}, "past_key_values": CACHE},
    )
    return {"prefill": prefill, "decode": decode}


def generated(prefill, decode, ids: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy tokens: one prefill, then a step a token."""
    result = prefill(input_ids=ids)
    for _ in range(count - 1):
        ids = torch.cat([ids, result.logits[:, -1:].argmax(-1)], 1)
        result = decode(input_ids=ids[:, -1:], past_key_values=result.past_key_values)
    return torch.cat([ids, result.logits[:, -1:].argmax(-1)], 1)


def own_tokens(model: nn.Module, ids: torch.Tensor, count: int) -> torch.Tensor:
    settings = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_greedy_generation_gives_the_models_own_tokens(kind: str, target: str):
    model = decoder(kind)
    parts = {
        n: fxopt.lower(fxopt.run_pipeline(p, "O1"), target) for n, p in prefill_and_decode(model).items()
    }
    for batch, length in ((1, 3), (3, 7)):
        ids = tokens(batch, length, 60)
        got = generated(parts["prefill"], parts["decode"], ids, 9)
        assert torch.equal(got, own_tokens(model, ids, 9))


def test_a_programs_cache_is_the_models_own_class():
    from transformers import DynamicCache

    model = decoder("llama")
    programs = prefill_and_decode(model)
    ids = tokens(2, 5, 60)
    result = programs["prefill"](input_ids=ids)
    assert type(result) is type(model(input_ids=ids))
    assert isinstance(result.past_key_values, DynamicCache)
    assert result.past_key_values.get_seq_length() == 5
    names = [s.name for s in programs["decode"].signature.inputs]
    assert names[1] == "past_key_values_key_cache_0"
