"""transformers' models, ``hf:TYPE``: built from a configuration, as a classifier where there is one of the type.

``hf:gpt2`` and ``hf:GPT2Config`` have the type's default configuration and random weights. What else can be named,
options and folders, is in `common.models.own_transformers`: it is for the user of this machine alone.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UsageError
from common.models.choice import Choice, unknown
from common.models.extras import building, load
from common.models.inputs import Images, Inputs, Tokens

PREFIX = "hf:"
_LIST = "transformers.CONFIG_MAPPING has all; models of the hub are not loaded"
_SIDE = 224


def choose(name: str) -> Choice:
    """The model of a type or configuration class behind the prefix, in upper or lower case.

    Raises:
        UsageError: transformers has no such type, it takes other inputs than words or images, or this is a name
            that only the user of this machine can give.
    """
    if "(" in name or "/" in name:
        raise UsageError(
            f"options and folders of {PREFIX} models hold only where they are typed, and {PREFIX}{name} came from "
            "elsewhere: start this side with the same --model"
        )
    kind = model_type(name)
    return from_config(PREFIX + kind, load("transformers", "hf", PREFIX + kind).CONFIG_MAPPING[kind])


def model_type(name: str) -> str:
    """The type that is called so, or whose configuration class is."""
    types: Mapping[str, str] = _module("configuration_auto", PREFIX + name).CONFIG_MAPPING_NAMES
    known = {each.lower(): each for each in types} | {each.lower(): kind for kind, each in types.items()}
    if name.lower() not in known:
        raise unknown("transformers has no model type", name, known, _LIST)
    return known[name.lower()]


def from_config(name: str, make: Callable[[], Any], load_weights: Callable[..., nn.Module] | None = None) -> Choice:
    """The choice of the model that a configuration describes.

    Args:
        name: as jobs call it.
        make: gives the configuration, a new one each time.
        load_weights: called with the class and the configuration; where it is None, weights are random.
    """
    with building(name):
        config = make()
        kind, sees = _class(config, name)
        inputs = _inputs(config, kind.main_input_name, name)
    return Choice(name, partial(_build, name, make, load_weights), inputs, sees and isinstance(inputs, Images))


def _class(config: Any, name: str) -> tuple[Any, bool]:
    """The class that classifies images or texts, else that of the bare model; and whether it classifies."""
    mappings = _module("modeling_auto", name)
    for mapping, classifies in (
        (mappings.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, True),
        (mappings.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, True),
        (mappings.MODEL_MAPPING, False),
    ):
        if type(config) in mapping:
            found = mapping[type(config)]
            return (found[0] if isinstance(found, tuple) else found), classifies
    raise UsageError(f"{name}: transformers has no model for a {type(config).__name__} alone")


def _inputs(config: Any, kind: str, name: str) -> Inputs:
    if kind == "pixel_values":
        seen = getattr(config, "vision_config", config)
        side = getattr(seen, "image_size", None) or _SIDE
        H, W = side if isinstance(side, list | tuple) else (side, side)
        return Images((getattr(seen, "num_channels", 3), H, W))
    if kind != "input_ids":
        raise UsageError(
            f"{name} takes {kind}; only models of words (input_ids) and of images (pixel_values) are known"
        )
    words = config.get_text_config()
    named = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    special = {key: getattr(words, key, None) for key in named}
    numbers = {key: each for key, each in special.items() if isinstance(each, int) and each < words.vocab_size}
    return Tokens(words.vocab_size, frozenset({0, *numbers.values()}), numbers.get("eos_token_id"))


def _build(
    name: str,
    make: Callable[[], Any],
    load_weights: Callable[..., nn.Module] | None,
    num_classes: int,
    *,
    dropout: float = 0.0,
) -> nn.Module:
    if dropout:
        raise UsageError(f"--dropout is {dropout}, but {name} has its configuration's own; leave it out")
    with building(name):
        config = make()
        config.num_labels = num_classes
        config.use_cache = False  # else a decoder gives the keys and values of all words too
        words = config.get_text_config()
        if getattr(words, "pad_token_id", None) is None:  # a batch cannot be classified without one
            words.pad_token_id = config.pad_token_id = 0
        if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
            config.decoder_start_token_id = words.pad_token_id
        kind, _ = _class(config, name)
        if load_weights is not None and not torch.empty(0).is_meta:
            model = load_weights(kind, config)
        else:
            model = kind._from_config(config, dtype=torch.float32)
        model.__class__ = type(kind.__name__, (_OneTensor, kind), {"__module__": kind.__module__})
        return model.train()


class _OneTensor:
    """Mixed into a model's class: one input by position, and of the outputs the first, without a container."""

    main_input_name: str

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, classes); of bare models the last hidden state."""
        named = {self.main_input_name: inputs, "return_dict": False}
        outputs = super().forward(**named)  # type: ignore[misc]
        first: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
        return first


def _module(part: str, name: str) -> Any:
    return load(f"transformers.models.auto.{part}", "hf", name)
