"""transformers: 22 models as configurations of toy size, with all that the real ones do.

Decoders keep their caches, as they do when nobody says otherwise; those caches are outputs like others.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.entry import Entry, Inputs, MakeInputs, generator, images, library

_WORDS = 64
_LENGTH = 8
_SMALL: dict[str, Any] = {"vocab_size": _WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# The names that most configurations have for the same things.
_TOY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_GROUPED: dict[str, Any] = {**_SMALL, **_TOY, "num_key_value_heads": 2}
_ENCODER_DECODER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_start_token_id": 1,
}
_VISION: dict[str, Any] = {**_TOY, "image_size": 32, "patch_size": 8}


def transformers_entries() -> list[Entry]:
    """Decoders, encoders, both, mixtures of experts, state spaces, vision, audio."""
    return [
        _entry(
            "gpt2", "GPT2Config", "GPT2LMHeadModel", _text, n_embd=32, n_layer=2, n_head=4, n_positions=32, **_SMALL
        ),
        _entry("llama", "LlamaConfig", "LlamaForCausalLM", _text, **_GROUPED),
        _entry("qwen2", "Qwen2Config", "Qwen2ForCausalLM", _text, **_GROUPED),
        _entry("gemma2", "Gemma2Config", "Gemma2ForCausalLM", _text, head_dim=8, sliding_window=4, **_GROUPED),
        _entry("opt", "OPTConfig", "OPTForCausalLM", _text, **_SMALL, **_TOY, ffn_dim=64, word_embed_proj_dim=32),
        _entry("bloom", "BloomConfig", "BloomForCausalLM", _text, hidden_size=32, n_layer=2, n_head=4, **_SMALL),
        _entry("gpt_neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", _text, **_SMALL, **_TOY),
        _entry("phi", "PhiConfig", "PhiForCausalLM", _text, **_SMALL, **_TOY),
        _entry(
            "mixtral",
            "MixtralConfig",
            "MixtralForCausalLM",
            _text,
            **_GROUPED,
            num_local_experts=4,
            num_experts_per_tok=2,
            output_router_logits=True,
        ),
        _entry(
            "mamba",
            "MambaConfig",
            "MambaForCausalLM",
            _text,
            **_SMALL,
            hidden_size=32,
            state_size=4,
            num_hidden_layers=2,
        ),
        _entry("bert", "BertConfig", "BertForMaskedLM", _padded, **_SMALL, **_TOY),
        _entry(
            "distilbert",
            "DistilBertConfig",
            "DistilBertForSequenceClassification",
            _padded,
            dim=32,
            hidden_dim=64,
            n_layers=2,
            n_heads=4,
            **_SMALL,
        ),
        _entry(
            "deberta_v2",
            "DebertaV2Config",
            "DebertaV2Model",
            _padded,
            **_SMALL,
            **_TOY,
            relative_attention=True,
            position_buckets=8,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
        ),
        _entry(
            "t5",
            "T5Config",
            "T5ForConditionalGeneration",
            _pairs,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            vocab_size=_WORDS,
        ),
        _entry(
            "bart",
            "BartConfig",
            "BartForConditionalGeneration",
            _pairs,
            **_SMALL,
            **_ENCODER_DECODER,
            max_position_embeddings=32,
        ),
        _entry(
            "whisper",
            "WhisperConfig",
            "WhisperForConditionalGeneration",
            _speech,
            **_SMALL,
            **_ENCODER_DECODER,
            num_mel_bins=8,
            max_source_positions=16,
            max_target_positions=32,
        ),
        _entry(
            "wav2vec2",
            "Wav2Vec2Config",
            "Wav2Vec2ForCTC",
            _waves,
            **_SMALL,
            **_TOY,
            conv_dim=(16, 16),
            conv_kernel=(10, 3),
            conv_stride=(5, 2),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
            apply_spec_augment=False,
        ),
        _entry("vit", "ViTConfig", "ViTForImageClassification", _pixels, **_VISION),
        _entry(
            "swin",
            "SwinConfig",
            "SwinForImageClassification",
            _pixels,
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
        _entry(
            "segformer",
            "SegformerConfig",
            "SegformerForSemanticSegmentation",
            _pixels,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 3, 4],
            decoder_hidden_size=16,
            num_labels=5,
        ),
        _entry(
            "clip",
            "CLIPConfig",
            "CLIPModel",
            _captions,
            text_config={**_SMALL, **_TOY},
            vision_config=_VISION,
            projection_dim=16,
        ),
        _detr(),
    ]


def _entry(name: str, configuration: str, model: str, inputs: MakeInputs, **settings: Any) -> Entry:
    def build() -> nn.Module:
        transformers = library("transformers")
        built: nn.Module = getattr(transformers, model)(getattr(transformers, configuration)(**settings))
        return built

    return Entry(name, "transformers", "transformers", build, inputs)


def _detr() -> Entry:
    backbone = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}

    def build() -> nn.Module:
        transformers = library("transformers")
        configuration = transformers.DetrConfig(
            backbone_config=transformers.ResNetConfig(**backbone, out_features=["stage4"]),
            use_timm_backbone=False,
            num_queries=6,
            num_labels=4,
            **{key: value for key, value in _ENCODER_DECODER.items() if key != "decoder_start_token_id"},
        )
        model: nn.Module = transformers.DetrForObjectDetection(configuration)
        return model

    return Entry("detr", "transformers", "transformers", build, lambda seed: ((), {"pixel_values": images(seed, 64)}))


def _words(seed: int) -> Tensor:
    """A batch (B, T) of words; the first few stand for padding, start and end."""
    return torch.randint(3, _WORDS, (2, _LENGTH), generator=generator(seed))


def _text(seed: int) -> Inputs:
    return (), {"input_ids": _words(seed), "labels": _words(seed)}


def _padded(seed: int) -> Inputs:
    mask = torch.ones(2, _LENGTH, dtype=torch.int64)
    mask[1, -3:] = 0
    return (), {"input_ids": _words(seed), "attention_mask": mask}


def _pairs(seed: int) -> Inputs:
    return (), {"input_ids": _words(seed), "labels": _words(seed + 100)}


def _captions(seed: int) -> Inputs:
    return (), {"input_ids": _words(seed), "pixel_values": images(seed, 32)}


def _pixels(seed: int) -> Inputs:
    return (), {"pixel_values": images(seed, 32)}


def _speech(seed: int) -> Inputs:
    """Mel features (B, C, T), and what was said."""
    return (), {"input_features": torch.rand(2, 8, 32, generator=generator(seed)), "labels": _words(seed)}


def _waves(seed: int) -> Inputs:
    return (), {"input_values": torch.rand(2, 400, generator=generator(seed)) - 0.5}
