"""What only this machine's user can name of transformers: ``hf:TYPE(option=value, ...)`` and ``hf:path/to/folder``.

Options are literals, checked against the type's default configuration. A folder holds ``config.json`` and may hold
safetensors; neither code nor pickles in it are ever loaded, and nothing from the hub.
"""

import ast
import json
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import UsageError
from common.models.choice import Choice, unknown
from common.models.extras import building, load
from common.models.of_transformers import PREFIX, choose, from_config, model_type

# Would bring code or quantized weights, or say where they come from; and what is set for every model alike.
_NEVER = {
    "auto_map",
    "quantization_config",
    "attn_implementation",
    "experts_implementation",
    "custom_pipelines",
    "use_cache",
}


def choose_local(name: str) -> Choice:
    """The model of a name behind the prefix, with options, or of a folder; a folder's name has a slash in it.

    Raises:
        UsageError: no such type, option or folder, or one that would run code.
    """
    if "(" in name:
        return _with_options(name)
    if "/" in name or "\\" in name:
        return _of_folder(Path(name).expanduser())
    return choose(name)


def _with_options(name: str) -> Choice:
    kind, options = _parsed(name)
    kind = model_type(kind)
    make = load("transformers", "hf", PREFIX + name).CONFIG_MAPPING[kind]
    with building(PREFIX + name):
        defaults = make()
        general = vars(load("transformers", "hf", PREFIX + name).PreTrainedConfig())
    known = {
        **_plain(defaults),
        **{key: getattr(defaults, key) for key in defaults.attribute_map if hasattr(defaults, key)},
    }
    for key, value in options.items():
        allowed = key.endswith("_token_id") or not (key in general or "backbone" in key or "pretrained" in key)
        if key not in known or key in _NEVER or not allowed:
            raise unknown(
                f"{PREFIX}{kind} has no option", key, sorted(set(known) - set(general)), "see its configuration"
            )
        if known[key] is not None and not _fits(value, known[key]):
            raise UsageError(f"{PREFIX}{kind}: {key} is {value!r}; its default is {known[key]!r}")
    spelled = ",".join(f"{key}={value!r}" for key, value in sorted(options.items()))
    return from_config(f"{PREFIX}{kind}({spelled})" if spelled else PREFIX + kind, partial(make, **options))


def _parsed(name: str) -> tuple[str, dict[str, bool | int | float | str]]:
    """``TYPE(a=1, b='x')`` as a type and its options; they are read, and never evaluated."""
    wrong = UsageError(
        f"{PREFIX}{name} is not of the form {PREFIX}TYPE(option=value, ...) with numbers, strings, True, False"
    )
    kind, _, rest = name.partition("(")
    try:
        call = ast.parse(f"options({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise wrong
        options = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise wrong from None
    if not kind.isidentifier() and not kind.replace("-", "_").isidentifier():
        raise wrong
    plain = {key: value for key, value in options.items() if key and isinstance(value, bool | int | float | str)}
    if len(plain) != len(call.keywords):
        raise wrong
    return kind, plain


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def _plain(config: Any) -> dict[str, Any]:
    """The configuration's fields that are single values."""
    fields = {key: value for key, value in vars(config).items() if not key.startswith("_")}
    return {key: value for key, value in fields.items() if value is None or isinstance(value, bool | int | float | str)}


def _of_folder(folder: Path) -> Choice:
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"there is no {folder / 'config.json'} to build a model from; models of the hub are not loaded: nothing is "
            "downloaded"
        )
    name = f"{PREFIX}{folder.resolve().name}/"
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise UsageError(f"{folder / 'config.json'} names no model_type")
    if "quantization_config" in content:
        raise UsageError(f"{folder} holds a quantized model, which cannot be trained or cut")
    make = load("transformers", "hf", name).CONFIG_MAPPING[model_type(content["model_type"])].from_dict
    weights = None
    if list(folder.glob("*.safetensors")):
        weights = partial(_loaded, folder)
    elif list(folder.glob("*.bin")):
        raise UsageError(f"the weights in {folder} are pickles, which are never loaded; save them as safetensors")
    return from_config(name, lambda: make(_cleaned(content)), weights)


def _cleaned(content: Any) -> Any:
    """A configuration, and those within it, without what would choose code: that may name a repository."""
    if isinstance(content, list):
        return [_cleaned(each) for each in content]
    if not isinstance(content, dict):
        return content
    return {key: _cleaned(each) for key, each in content.items() if key not in _NEVER and not key.startswith("_")}


def _loaded(folder: Path, kind: Any, config: Any) -> nn.Module:
    """With the folder's weights; a last layer of another number of classes is drawn anew."""
    model: nn.Module = kind.from_pretrained(
        folder,
        config=config,
        dtype="float32",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
    )
    return model
