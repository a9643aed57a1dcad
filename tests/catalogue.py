"""Unseen models: tiny random ones of the architectures that people bring, built from their libraries' configs.

`CASES[name].build()` gives module, arguments and keyword arguments, as a user would call the library's own
class: outputs are the library's, caches and all. `dynamic` lets the batch vary, and the length where it is
natural. Nothing is downloaded.
"""

# ruff: noqa: E501  (tables of sizes, a line a model)

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from tests.zoo import image, randomise_statistics, tokens

Call = tuple[nn.Module, tuple[object, ...], dict[str, object]]
CASES: dict[str, "Case"] = {}


@dataclass(frozen=True)
class Case:
    """How to build a model and an example call, and which sizes vary."""

    group: str
    make: Callable[[], Call]
    dynamic: dict[str, object] = field(default_factory=dict)

    def build(self) -> Call:
        """The model in eval mode and a call of it, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module, args, kwargs = self.make()
        randomise_statistics(module)
        return module.eval(), args, kwargs


def _add(name: str, group: str, make: Callable[[], Call], **dynamic: object) -> None:
    CASES[name] = Case(group, make, dynamic)


BATCH: dict[int, str] = {0: "batch"}
LENGTH: dict[int, str] = {0: "batch", 1: "length"}
SMALL: dict[str, object] = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def _hf(model: str, config: str, **sizes: object) -> nn.Module:
    import transformers

    return getattr(transformers, model)(getattr(transformers, config)(**sizes))


def _mask() -> torch.Tensor:
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 9:] = 0
    return mask


def _encoder(
    name: str,
    model: str,
    config: str,
    *,
    length: bool = True,
    mask: bool = True,
    only: bool = False,
    **sizes: object,
) -> None:
    axes = LENGTH if length else BATCH
    inputs: dict[str, object] = {"input_ids": tokens()} | ({"attention_mask": _mask()} if mask else {})
    _add(
        name, "text", lambda: (_hf(model, config, **{**({} if only else SMALL), **sizes}), (), dict(inputs)),
        **dict.fromkeys(inputs, axes),
    )  # fmt: skip


def _seq2seq(name: str, model: str, config: str, **sizes: object) -> None:
    def make() -> Call:
        both = {
            "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
            "decoder_start_token_id": 2, **SMALL, **sizes,
        }  # fmt: skip
        inputs = {"input_ids": tokens(), "attention_mask": _mask(), "decoder_input_ids": tokens(length=7)}
        return _hf(model, config, **both), (), inputs

    target = {0: "batch", 1: "target"}
    _add(name, "seq2seq", make, input_ids=LENGTH, attention_mask=LENGTH, decoder_input_ids=target)


def _vision(name: str, model: str, config: str, *, size: int = 32, video: int = 0, **sizes: object) -> None:
    def make() -> Call:
        pixels = image(size)
        if video:
            pixels = pixels[:, None].expand(-1, video, -1, -1, -1).contiguous()
        base = {"image_size": size, "patch_size": 8, "num_labels": 5}
        text = {k: v for k, v in SMALL.items() if k != "vocab_size" and not k.endswith("token_id")}
        plain = {} if {"depths", "depth", "embed_dim", "width_coefficient"} & sizes.keys() else text
        return _hf(model, config, **{**plain, **base, **sizes}), (), {"pixel_values": pixels}

    _add(name, "vision", make, pixel_values=BATCH)


def _audio(
    name: str,
    model: str,
    config: str,
    *,
    key: str = "input_values",
    length: bool = True,
    shape: tuple[int, ...] = (2, 1600),
    **sizes: object,
) -> None:
    def make() -> Call:
        wave = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        base = {
            "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 6), "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, "apply_spec_augment": False,
        }  # fmt: skip
        return _hf(model, config, **{**SMALL, **base, **sizes}), (), {key: wave}

    _add(name, "audio", make, **{key: LENGTH if length else BATCH})


for _name, _model, _more in [
    ("bert", "Bert", {}), ("roberta", "Roberta", {}), ("xlm-roberta", "XLMRoberta", {}), ("camembert", "Camembert", {}),
    ("electra", "Electra", {"embedding_size": 32}), ("albert", "Albert", {"embedding_size": 16}),
    ("mpnet", "MPNet", {}), ("mobilebert", "MobileBert", {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}),
    ("squeezebert", "SqueezeBert", {"embedding_size": 32}), ("convbert", "ConvBert", {"embedding_size": 32}),
    ("deberta", "Deberta", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}),
    ("deberta-v2", "DebertaV2", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8, "share_att_key": True}),
    ("megatron-bert", "MegatronBert", {}), ("rembert", "RemBert", {"input_embedding_size": 32, "output_embedding_size": 32}),
    ("roformer", "RoFormer", {"embedding_size": 32}), ("ernie", "Ernie", {}), ("esm", "Esm", {"position_embedding_type": "rotary"}),
    ("ibert", "IBert", {}), ("layoutlm", "LayoutLM", {}), ("modernbert", "ModernBert", {"global_attn_every_n_layers": 2, "local_attention": 8}),
    ("nystromformer", "Nystromformer", {"num_landmarks": 12, "segment_means_seq_len": 12}), ("longformer", "Longformer", {"attention_window": 4}),
    ("big-bird", "BigBird", {"attention_type": "original_full"}),     ("luke", "Luke", {"entity_vocab_size": 10, "entity_emb_size": 8}), ("data2vec-text", "Data2VecText", {}),
    ("visual-bert", "VisualBert", {"visual_embedding_dim": 8}), ("splinter", "Splinter", {}),
    ("nomic-bert", "NomicBert", {}), ("eurobert", "EuroBert", {}), ("xmod", "Xmod", {"default_language": "en_XX"}),
    ("markuplm", "MarkupLM", {}), ("tapas", "Tapas", {}),
]:  # fmt: skip
    _encoder(_name, f"{_model}Model", f"{_model}Config", **_more)
_encoder("distilbert", "DistilBertModel", "DistilBertConfig", dim=32, n_layers=2, n_heads=4, hidden_dim=64)
_encoder(
    "xlnet",
    "XLNetModel",
    "XLNetConfig",
    only=True,
    vocab_size=100,
    d_model=32,
    n_layer=2,
    n_head=4,
    d_inner=64,
)
_encoder(
    "funnel",
    "FunnelModel",
    "FunnelConfig",
    only=True,
    vocab_size=100,
    block_sizes=[1, 1],
    d_model=32,
    n_head=4,
    d_head=8,
    d_inner=64,
)
_encoder("fnet", "FNetModel", "FNetConfig", mask=False, length=False)
_encoder("flaubert", "FlaubertModel", "FlaubertConfig", emb_dim=32, n_layers=2, n_heads=4)
_encoder("xlm", "XLMModel", "XLMConfig", emb_dim=32, n_layers=2, n_heads=4)
_encoder(
    "canine", "CanineModel", "CanineConfig", num_hash_buckets=64, local_transformer_stride=8, length=False
)
_encoder("bert-classifier", "BertForSequenceClassification", "BertConfig", num_labels=3)
_encoder("bert-tokens", "BertForTokenClassification", "BertConfig", num_labels=3)
_encoder("bert-answers", "BertForQuestionAnswering", "BertConfig")
_encoder("bert-masked", "BertForMaskedLM", "BertConfig")
_encoder(
    "bert-hidden",
    "BertModel",
    "BertConfig",
    output_hidden_states=True,
    output_attentions=True,
    attn_implementation="eager",
)
_encoder(
    "distilbert-classifier",
    "DistilBertForSequenceClassification",
    "DistilBertConfig",
    dim=32,
    n_layers=2,
    n_heads=4,
    hidden_dim=64,
)

for _name, _model, _more in [
    ("gpt2", "GPT2LMHead", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    ("gpt-neo", "GPTNeoForCausalLM", {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4}),
    ("gptj", "GPTJForCausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}),
    ("gpt-neox", "GPTNeoXForCausalLM", {}), ("opt", "OPTForCausalLM", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    ("bloom", "BloomForCausalLM", {"n_layer": 2, "n_head": 4}), ("falcon", "FalconForCausalLM", {}),
    ("llama", "LlamaForCausalLM", {"num_key_value_heads": 2}), ("mistral", "MistralForCausalLM", {"num_key_value_heads": 2, "sliding_window": 8}),
    ("mixtral", "MixtralForCausalLM", {"num_key_value_heads": 2, "num_local_experts": 4}),
    ("qwen2", "Qwen2ForCausalLM", {"num_key_value_heads": 2}), ("qwen3", "Qwen3ForCausalLM", {"num_key_value_heads": 2, "head_dim": 8}),
    ("qwen2-moe", "Qwen2MoeForCausalLM", {"num_key_value_heads": 2, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}),
    ("gemma", "GemmaForCausalLM", {"num_key_value_heads": 1, "head_dim": 8}), ("gemma2", "Gemma2ForCausalLM", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}),
    ("gemma3", "Gemma3ForCausalLM", {"query_pre_attn_scalar": 8, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}),
    ("phi", "PhiForCausalLM", {}), ("phi3", "Phi3ForCausalLM", {"num_key_value_heads": 2}), ("stablelm", "StableLmForCausalLM", {"num_key_value_heads": 2}),
    ("codegen", "CodeGenForCausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}),
    ("mpt", "MptForCausalLM", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    ("cohere", "CohereForCausalLM", {"num_key_value_heads": 2}), ("olmo", "OlmoForCausalLM", {}), ("granite", "GraniteForCausalLM", {"num_key_value_heads": 2}),
    ("starcoder2", "Starcoder2ForCausalLM", {"num_key_value_heads": 2}), ("persimmon", "PersimmonForCausalLM", {}), ("glm", "GlmForCausalLM", {"num_key_value_heads": 2, "head_dim": 8}),
    ("nemotron", "NemotronForCausalLM", {"num_key_value_heads": 2}), ("smollm3", "SmolLM3ForCausalLM", {"num_key_value_heads": 2}),
    ("deepseek-v3", "DeepseekV3ForCausalLM", {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}),
    ("gpt-oss", "GptOssForCausalLM", {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4, "sliding_window": 8}),
    ("biogpt", "BioGptForCausalLM", {}), ("xglm", "XGLMForCausalLM", {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64}),
    ("ctrl", "CTRLLMHead", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "dff": 64}),
    ("mamba", "MambaForCausalLM", {"state_size": 4, "time_step_rank": 4}), ("mamba2", "Mamba2ForCausalLM", {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4}),
    ("rwkv", "RwkvForCausalLM", {"attention_hidden_size": 32}),
    ("openai-gpt", "OpenAIGPTLMHead", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    ("bitnet", "BitNetForCausalLM", {"num_key_value_heads": 2}), ("lfm2", "Lfm2ForCausalLM", {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}),
    ("diffllama", "DiffLlamaForCausalLM", {"num_key_value_heads": 2}), ("roberta-causal", "RobertaForCausalLM", {"is_decoder": True}),
    ("jamba", "JambaForCausalLM", {"num_key_value_heads": 2, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False}),
    ("ernie4-5", "Ernie4_5ForCausalLM", {"num_key_value_heads": 2, "head_dim": 8}),
]:  # fmt: skip
    _config = _model.removesuffix("ForCausalLM").removesuffix("LMHead") + "Config"
    _config = {"Gemma3Config": "Gemma3TextConfig"}.get(_config, _config)
    _encoder(_name, _model if _model.endswith("CausalLM") else f"{_model}Model", _config, **_more)

_T5 = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_seq2seq("t5", "T5ForConditionalGeneration", "T5Config", **_T5)
_seq2seq("mt5", "MT5ForConditionalGeneration", "MT5Config", **_T5)
_seq2seq("longt5", "LongT5ForConditionalGeneration", "LongT5Config", **_T5, local_radius=4)
_seq2seq("umt5", "UMT5ForConditionalGeneration", "UMT5Config", **_T5)
_seq2seq("bart", "BartForConditionalGeneration", "BartConfig")
_seq2seq("mbart", "MBartForConditionalGeneration", "MBartConfig")
_seq2seq("pegasus", "PegasusForConditionalGeneration", "PegasusConfig")
_seq2seq("marian", "MarianMTModel", "MarianConfig")
_seq2seq("m2m-100", "M2M100ForConditionalGeneration", "M2M100Config")
_seq2seq("blenderbot", "BlenderbotForConditionalGeneration", "BlenderbotConfig")
_seq2seq(
    "led", "LEDForConditionalGeneration", "LEDConfig", attention_window=4, max_encoder_position_embeddings=64
)
_seq2seq(
    "fsmt",
    "FSMTForConditionalGeneration",
    "FSMTConfig",
    src_vocab_size=100,
    tgt_vocab_size=100,
    langs=["en", "de"],
)
_seq2seq(
    "switch-transformers",
    "SwitchTransformersForConditionalGeneration",
    "SwitchTransformersConfig",
    **_T5,
    num_experts=4,
    num_sparse_encoder_layers=1,
    num_sparse_decoder_layers=1,
)

for _name, _model, _more in [
    ("vit", "ViT", {}), ("deit", "DeiT", {}), ("beit", "Beit", {"use_relative_position_bias": True}), ("dinov2", "Dinov2", {}),
    ("vit-msn", "ViTMSN", {}), ("data2vec-vision", "Data2VecVision", {}), ("yolos", "Yolos", {"image_size": (32, 32), "num_detection_tokens": 5}),
    ("dinov2-registers", "Dinov2WithRegisters", {}), ("dinov3-vit", "DINOv3ViT", {}), ("ijepa", "IJepa", {}),
    ("hiera", "Hiera", {"embed_dim": 16, "image_size": [32, 32], "depths": [1, 1], "num_heads": [1, 2], "query_stride": [2, 2], "num_query_pool": 1, "masked_unit_size": [2, 2], "patch_stride": [4, 4], "patch_size": [7, 7], "patch_padding": [3, 3]}),
]:  # fmt: skip
    _vision(_name, f"{_model}Model", f"{_model}Config", **_more)
for _name, _model, _size, _more in [
    ("swin", "Swin", 32, {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "patch_size": 2}),
    ("swinv2", "Swinv2", 32, {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "patch_size": 2}),
    ("convnext", "ConvNext", 64, {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "patch_size": 4}),
    ("convnextv2", "ConvNextV2", 64, {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "patch_size": 4}),
    ("segformer", "Segformer", 64, {"hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16}),
    ("mobilevit", "MobileViT", 64, {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32], "patch_size": 2}),
    ("mobilevitv2", "MobileViTV2", 64, {"patch_size": 2, "width_multiplier": 0.25}),
    ("mobilenet-v1", "MobileNetV1", 64, {"depth_multiplier": 0.25}), ("mobilenet-v2", "MobileNetV2", 64, {"depth_multiplier": 0.25}),
    ("regnet", "RegNet", 32, {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4, "layer_type": "y"}),
    ("hf-resnet", "ResNet", 32, {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    ("poolformer", "PoolFormer", 64, {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
    ("pvt", "Pvt", 64, {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "patch_sizes": [4, 2, 2, 2]}),
    ("pvt-v2", "PvtV2", 64, {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}),
    ("levit", "Levit", 64, {"hidden_sizes": [16, 16, 16], "num_attention_heads": [1, 1, 1], "depths": [1, 1, 1], "key_dim": [8, 8, 8], "patch_size": 16}),
    ("focalnet", "FocalNet", 32, {"embed_dim": 8, "depths": [1, 1], "patch_size": 4, "hidden_sizes": [8, 16]}),
    ("swiftformer", "SwiftFormer", 64, {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 16]}),
    ("bit", "Bit", 32, {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 1, "layer_type": "preactivation"}),
    ("hgnet-v2", "HGNetV2", 64, {"embedding_size": 8, "depths": [1, 1], "hidden_sizes": [8, 16], "stem_channels": [3, 8, 8], "stage_in_channels": [8, 16], "stage_mid_channels": [8, 8], "stage_out_channels": [16, 16], "stage_num_blocks": [1, 1], "stage_numb_of_layers": [2, 2], "stage_downsample": [False, True], "stage_light_block": [False, True], "stage_kernel_size": [3, 5]}),
]:  # fmt: skip
    _kind = "SemanticSegmentation" if _model in ("Segformer",) else "ImageClassification"
    _vision(_name, f"{_model}For{_kind}", f"{_model}Config", size=_size, **_more)
_vision(
    "efficientnet",
    "EfficientNetForImageClassification",
    "EfficientNetConfig",
    size=64,
    width_coefficient=0.25,
    depth_coefficient=0.25,
    hidden_dim=320,
)
_vision(
    "swin2sr",
    "Swin2SRForImageSuperResolution",
    "Swin2SRConfig",
    size=16,
    embed_dim=8,
    depths=[1, 1],
    num_heads=[2, 2],
    window_size=4,
    patch_size=1,
    upscale=2,
)
_vision(
    "dpt",
    "DPTForDepthEstimation",
    "DPTConfig",
    size=32,
    neck_hidden_sizes=[8, 8, 16, 16],
    fusion_hidden_size=8,
    backbone_out_indices=[0, 1, 2, 3],
    num_hidden_layers=4,
    is_hybrid=False,
)
_vision(
    "glpn",
    "GLPNForDepthEstimation",
    "GLPNConfig",
    size=64,
    hidden_sizes=[8, 8, 16, 16],
    depths=[1, 1, 1, 1],
    num_attention_heads=[1, 1, 2, 2],
    decoder_hidden_size=8,
)
_vision("videomae", "VideoMAEModel", "VideoMAEConfig", size=32, video=4, num_frames=4)
_vision("timesformer", "TimesformerModel", "TimesformerConfig", size=32, video=4, num_frames=4)
_vision("vivit", "VivitModel", "VivitConfig", size=32, video=4, num_frames=4, tubelet_size=[2, 8, 8])
_vision("siglip-vision", "SiglipVisionModel", "SiglipVisionConfig")
_vision("clip-vision", "CLIPVisionModel", "CLIPVisionConfig")
_vision("superpoint", "SuperPointForKeypointDetection", "SuperPointConfig", size=32)
_vision(
    "mgp-str",
    "MgpstrForSceneTextRecognition",
    "MgpstrConfig",
    size=[32, 64][0],
    image_size=[32, 32],
    patch_size=4,
    num_character_labels=10,
    num_bpe_labels=10,
    num_wordpiece_labels=10,
    max_token_length=5,
)

_encoder("clip-text", "CLIPTextModel", "CLIPTextConfig", projection_dim=16)
_encoder("siglip-text", "SiglipTextModel", "SiglipTextConfig", length=False)


def _detr(model: str, config: str, **sizes: object) -> Callable[[], Call]:
    def make() -> Call:
        import transformers as t

        backbone = t.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"] if sizes.pop("multi", False) else ["stage4"],
        )
        base = {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "num_queries": 5,
            "num_labels": 3,
        }
        settings = getattr(t, config)(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=backbone,
            **{**base, **sizes},
        )
        return getattr(t, model)(settings), (), {"pixel_values": image(64)}

    return make


_add("detr", "vision", _detr("DetrForObjectDetection", "DetrConfig"), pixel_values=BATCH)
_add(
    "table-transformer",
    "vision",
    _detr("TableTransformerForObjectDetection", "TableTransformerConfig"),
    pixel_values=BATCH,
)
_add(
    "conditional-detr",
    "vision",
    _detr("ConditionalDetrForObjectDetection", "ConditionalDetrConfig"),
    pixel_values=BATCH,
)
_add(
    "deformable-detr",
    "vision",
    _detr("DeformableDetrModel", "DeformableDetrConfig", multi=True, num_feature_levels=3),
    pixel_values=BATCH,
)


def _sub(
    model: str,
    config: str,
    parts: dict[str, dict[str, object]],
    inputs: Callable[[], dict[str, object]],
    **sizes: object,
) -> Callable[[], Call]:
    return lambda: (_hf(model, config, **parts, **sizes), (), inputs())


_PIXELS = {
    **{k: v for k, v in SMALL.items() if "token" not in k and k != "vocab_size"},
    "image_size": 32,
    "patch_size": 8,
}


def _both() -> dict[str, object]:
    return {"input_ids": tokens(2), "pixel_values": image(), "attention_mask": _mask()}


_add(
    "clip",
    "multi",
    _sub(
        "CLIPModel", "CLIPConfig", {"text_config": SMALL, "vision_config": _PIXELS}, _both, projection_dim=16
    ),
    input_ids={1: "length"},
    attention_mask={1: "length"},
)
_add(
    "siglip",
    "multi",
    _sub("SiglipModel", "SiglipConfig", {"text_config": SMALL, "vision_config": _PIXELS}, _both),
)
_add(
    "blip-itm",
    "multi",
    _sub(
        "BlipForImageTextRetrieval",
        "BlipConfig",
        {"text_config": {**SMALL, "encoder_hidden_size": 32}, "vision_config": _PIXELS},
        _both,
        projection_dim=16,
    ),
    input_ids=LENGTH,
    attention_mask=LENGTH,
    pixel_values=BATCH,
)
_add(
    "owlvit",
    "multi",
    _sub(
        "OwlViTModel",
        "OwlViTConfig",
        {"text_config": SMALL, "vision_config": _PIXELS},
        _both,
        projection_dim=16,
    ),
)
_add(
    "vilt",
    "multi",
    lambda: (
        _hf(
            "ViltModel", "ViltConfig", **{**SMALL, "image_size": 32, "patch_size": 8, "max_image_length": -1}
        ),
        (),
        _both(),
    ),
    input_ids=LENGTH,
    attention_mask=LENGTH,
    pixel_values=BATCH,
)

for _name, _model, _more in [
    ("wav2vec2", "Wav2Vec2", {}), ("wav2vec2-stable", "Wav2Vec2", {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}), ("hubert", "Hubert", {}),
    ("wavlm", "WavLM", {}), ("unispeech", "UniSpeech", {}), ("unispeech-sat", "UniSpeechSat", {}), ("data2vec-audio", "Data2VecAudio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}),
    ("sew", "SEW", {"squeeze_factor": 2}), ("sew-d", "SEWD", {"squeeze_factor": 2, "position_buckets": 8, "max_position_embeddings": 64}),
    ("wav2vec2-conformer", "Wav2Vec2Conformer", {"position_embeddings_type": "rotary"}),
]:  # fmt: skip
    _audio(_name, f"{_model}Model", f"{_model}Config", **_more)
_audio("wav2vec2-ctc", "Wav2Vec2ForCTC", "Wav2Vec2Config")
_audio(
    "ast",
    "ASTForAudioClassification",
    "ASTConfig",
    shape=(2, 32, 16),
    length=False,
    max_length=32,
    num_mel_bins=16,
    patch_size=8,
    frequency_stride=8,
    time_stride=8,
)
_audio(
    "wav2vec2-bert",
    "Wav2Vec2BertModel",
    "Wav2Vec2BertConfig",
    key="input_features",
    shape=(2, 20, 16),
    feature_projection_input_dim=16,
)
_audio(
    "whisper-encoder",
    "WhisperForAudioClassification",
    "WhisperConfig",
    key="input_features",
    shape=(2, 8, 64),
    length=False,
    num_mel_bins=8,
    max_source_positions=32,
    d_model=32,
    encoder_layers=2,
    encoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_layers=1,
    decoder_attention_heads=4,
    decoder_ffn_dim=64,
)
_audio(
    "encodec",
    "EncodecModel",
    "EncodecConfig",
    shape=(2, 1, 640),
    length=False,
    hidden_size=16,
    num_filters=4,
    codebook_size=16,
    codebook_dim=16,
    upsampling_ratios=[4, 4],
    num_lstm_layers=1,
    target_bandwidths=[24.0],
)
_audio(
    "hifigan",
    "SpeechT5HifiGan",
    "SpeechT5HifiGanConfig",
    key="spectrogram",
    shape=(2, 10, 80),
    length=True,
    upsample_initial_channel=16,
)


def _whisper() -> Call:
    config = {
        "num_mel_bins": 8,
        "max_source_positions": 32,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "max_target_positions": 32,
        "decoder_start_token_id": 2,
    }
    features = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0))
    return (
        _hf("WhisperForConditionalGeneration", "WhisperConfig", **{**SMALL, **config}),
        (),
        {"input_features": features, "decoder_input_ids": tokens(length=5)},
    )


_add("whisper", "audio", _whisper, input_features=BATCH, decoder_input_ids={0: "batch", 1: "target"})


def _patchtst() -> Call:
    values = torch.randn(2, 32, 3, generator=torch.Generator().manual_seed(0))
    return (
        _hf(
            "PatchTSTForPrediction",
            "PatchTSTConfig",
            context_length=32,
            num_input_channels=3,
            patch_length=4,
            patch_stride=4,
            d_model=16,
            num_attention_heads=2,
            num_hidden_layers=2,
            ffn_dim=32,
            prediction_length=8,
        ),
        (),
        {"past_values": values},
    )


_add("patchtst", "series", _patchtst, past_values=BATCH)
_add(
    "patchtsmixer",
    "series",
    lambda: (
        _hf(
            "PatchTSMixerForPrediction",
            "PatchTSMixerConfig",
            context_length=32,
            num_input_channels=3,
            patch_length=4,
            patch_stride=4,
            d_model=8,
            num_layers=2,
            prediction_length=8,
        ),
        (),
        {"past_values": torch.randn(2, 32, 3)},
    ),
    past_values=BATCH,
)


def _cv(file: str, name: str, batch: int = 2, size: int = 0, **more: object) -> Callable[[], Call]:
    def make() -> Call:
        module = getattr(importlib.import_module(f"pytorchcv.models.{file}"), name)(pretrained=False, **more)
        edge = size or getattr(module, "in_size", (224, 224))[0]
        return module, (image(edge, batch, getattr(module, "in_channels", 3)),), {}

    return make


for _file, _name in [
    ("resnet", "resnet18"), ("preresnet", "preresnet10"), ("resnext", "resnext14_16x4d"), ("seresnet", "seresnet10"), ("seresnext", "seresnext50_32x4d"),
    ("senet", "senet16"), ("densenet", "densenet121"), ("mobilenet", "mobilenet_wd4"), ("mobilenetv2", "mobilenetv2b_wd4"), ("mobilenetv3", "mobilenetv3_small_w7d20"),
    ("efficientnet", "efficientnet_b0"), ("shufflenet", "shufflenet_g3_wd4"), ("shufflenetv2b", "shufflenetv2b_wd2"), ("squeezenet", "squeezeresnet_v1_1"),
    ("squeezenext", "sqnxt23v5_w1"), ("inceptionv3", "inceptionv3"), ("vgg", "bn_vgg11b"), ("regnet", "regnetx002"), ("regnet", "regnety002"),
    ("alexnet", "alexnet"), ("zfnet", "zfnet"), ("bninception", "bninception"), ("darknet", "darknet_tiny"), ("dla", "dla34"), ("dpn", "dpn68"), ("fbnet", "fbnet_cb"),
    ("ghostnet", "ghostnet"), ("hardnet", "hardnet39ds"), ("igcv3", "igcv3_wd4"), ("mixnet", "mixnet_s"), ("mnasnet", "mnasnet_small"), ("peleenet", "peleenet"),
    ("proxylessnas", "proxylessnas_mobile"), ("selecsls", "selecsls42"), ("scnet", "scneta50"), ("vovnet", "vovnet27s"), ("xception", "xception"),
    ("cbamresnet", "cbam_resnet18"), ("bamresnet", "bam_resnet18"), ("octresnet", "octresnet10_ad2"), ("ibnresnet", "ibn_resnet50"), ("menet", "menet108_8x1_g3"),
    ("diracnetv2", "diracnet18v2"), ("condensenet", "condensenet74_c4_g4"), ("hrnet", "hrnet_w18_small_v1"), ("resnesta", "resnestabc14"), ("tresnet", "tresnet_m"),
    ("nasnet", "nasnet_4a1056"), ("channelnet", "channelnet"), ("dicenet", "dicenet_wd5"), ("espnetv2", "espnetv2_wd2"), ("revnet", "revnet38"), ("irevnet", "irevnet301"),
    ("msdnet", "msdnet22"), ("fishnet", "fishnet99"), ("isqrtcovresnet", "isqrtcovresnet18"), ("airnet", "airnet50_1x64d_r2"), ("bagnet", "bagnet9"), ("drn", "drnd22"),
    ("inceptionresnetv1", "inceptionresnetv1"), ("sinet", "sinet_cityscapes"), ("bisenet", "bisenet_resnet18_celebamaskhq"), ("lednet", "lednet_cityscapes"),
    ("superpointnet", "superpointnet"), ("quartznet", "quartznet5x5_en_ls"), ("jasper", "jasper5x3"), ("centernet", "centernet_resnet18_voc"), ("simplepose_coco", "simplepose_resnet18_coco"),
    ("resnet_cifar", "resnet20_cifar10"), ("pyramidnet_cifar", "pyramidnet110_a48_cifar10"), ("nin_cifar", "nin_cifar10"), ("wrn_cifar", "wrn16_10_cifar10"), ("xdensenet_cifar", "xdensenet40_2_k24_bc_cifar10"),
]:  # fmt: skip
    _add(f"cv-{_name}", "cnn", _cv(_file, _name), x=BATCH)
