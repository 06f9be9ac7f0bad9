"""timm: 95 models, the smallest real variant of each of its module files but three.

Left out are deepseek_vit and gemma4_vit, whose smallest variants have over 140 million parameters, and SAM's image
encoder, whose check takes more memory and time than its part of this list is worth.
"""

from typing import Any

from torch import nn

from tests.zoo.entry import Entry, library, of_images

# Module file: model.
_MODELS = {
    "beit": "beit_base_patch16_224",
    "byoanet": "eca_botnext26ts_256",
    "byobnet": "mobileone_s0",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "gmixer_12_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_26w_4s",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11_bn",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
_SIZE, _BATCH = 64, 2
# BatchNorm over two values gives 1 and -1 whatever they are, and gradients that are nothing but rounding.
_LARGER = {
    "efficientformer": (224, 2),  # its attention knows no other size
    "efficientvim": (128, 2),
    "efficientvit_msra": (128, 2),
    "iformer": (64, 4),
    "inception_resnet_v2": (160, 2),
    "inception_v3": (160, 2),
    "inception_v4": (160, 2),
    "levit": (128, 2),
    "repvit": (64, 4),
    "resnest": (64, 4),
    "rexnet": (64, 4),
    "selecsls": (128, 2),
    "shvit": (128, 2),
    "sknet": (64, 4),
}
# These are built for the size of their images.
_SIZED = {
    "beit",
    "byoanet",
    "byobnet",
    "cait",
    "coat",
    "convit",
    "deit",
    "efficientformer",
    "efficientformer_v2",
    "efficientvit_msra",
    "eva",
    "gcvit",
    "hiera",
    "levit",
    "maxxvit",
    "mlp_mixer",
    "mobilevit",
    "mvitv2",
    "naflexvit",
    "nest",
    "pit",
    "qwen3_vit",
    "repvit",
    "sequencer",
    "swiftformer",
    "swin_transformer",
    "swin_transformer_v2",
    "swin_transformer_v2_cr",
    "tnt",
    "twins",
    "visformer",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vitamin",
    "volo",
    "xcit",
}


def timm_entries() -> list[Entry]:
    """One entry for each module file."""
    return [_entry(module, name) for module, name in _MODELS.items()]


def _entry(module: str, name: str) -> Entry:
    size, batch = _LARGER.get(module, (_SIZE, _BATCH))
    options: dict[str, Any] = {"img_size": size} if module in _SIZED else {}

    def build() -> nn.Module:
        model: nn.Module = library("timm").create_model(name, pretrained=False, num_classes=10, **options)
        return model

    return Entry(name, "timm", "timm", build, of_images(size, batch=batch))
