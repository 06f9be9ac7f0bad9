"""A Keras model in a file of the user's own, ``path/to/model.keras``, on Keras's torch backend, with its weights.

It computes as Keras's ``predict`` does: batch norm with its stored statistics, no dropout. Keras draws dropout from
seeds of its own, which the replay of a step could not restore, so such a model is traced and run but not trained.
"""

import os
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from common.errors import UsageError
from common.models.choice import Choice
from common.models.extras import building, load
from common.models.inputs import Arrays

SUFFIX = ".keras"


def choose(name: str) -> Choice:
    """The model of a file, with the inputs that it describes: images as the file has them, mostly channels last.

    Raises:
        UsageError: no such file, no Keras, Keras on another backend, or a file that holds no model or code of its own.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file {path} to load a model from")
    model = _loaded(path)
    shapes = tuple(tuple(each.shape[1:]) for each in model.inputs)
    whole = tuple(str(each.dtype).startswith(("int", "uint")) for each in model.inputs)
    return Choice(path.name, partial(_build, path), Arrays(shapes, whole), classifies=False)


class KerasModel(nn.Module):
    """Keras's model behind torch's interface: parameters are called ``layer.weight``, each there once.

    Keras's own modules have a parameter under several names, and some names change with each load. A forward pass
    hands the parameters of this module to Keras, so that whoever replaces them (`torch.export`) is heard.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._keras = (model,)  # in a tuple, so that torch does not find a module here
        kept = {id(variable) for variable in model.weights}  # all but the seeds of dropout
        self._trainable = [self._register(each) for each in model.trainable_variables]
        self._others = [self._register(each) if id(each) in kept else each for each in model.non_trainable_variables]

    def _register(self, variable: Any) -> str:
        *layers, weight = variable.path.split("/")
        owner: nn.Module = self
        for layer in layers:
            if layer not in owner._modules:
                owner.add_module(layer, nn.Module())
            owner = owner.get_submodule(layer)
        owner.register_parameter(weight, variable.value)
        return ".".join([*layers, weight])

    def forward(self, *inputs: Tensor) -> Any:
        """As Keras's ``predict``, in either mode."""
        (model,) = self._keras
        trainable = [self.get_parameter(name) for name in self._trainable]
        others = [self.get_parameter(each) if isinstance(each, str) else each.value for each in self._others]
        given = inputs[0] if len(inputs) == 1 else list(inputs)
        outputs, _ = model.stateless_call(trainable, others, given, training=False)
        return outputs


def _build(path: Path, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    if dropout:
        raise UsageError(f"--dropout is {dropout}, but {path} has its own; leave it out")
    del num_classes  # the file has its own
    model = _loaded(path)
    with building(str(path)):
        return KerasModel(model)


def _loaded(path: Path) -> Any:
    keras = _imported(str(path))
    with building(str(path)), keras.device("cpu"):
        # In safe mode a file with code of its own (a Lambda layer) is refused.
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if not isinstance(model, keras.Model) or not model.built or not getattr(model, "inputs", None):
        raise UsageError(f"{path} says nothing of its inputs; only functional and sequential models do, once built")
    return model


def _imported(asked: str) -> ModuleType:
    if "keras" not in sys.modules:
        before = {name: os.environ.get(name) for name in ("KERAS_BACKEND", "KERAS_HOME")}
        with TemporaryDirectory(prefix="keras-") as folder:  # it would make one in the user's home
            os.environ.update(KERAS_BACKEND="torch", KERAS_HOME=folder)
            try:
                return load("keras", "keras", asked)
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
    keras = load("keras", "keras", asked)
    if keras.backend.backend() != "torch":
        raise UsageError(
            f"Keras was imported on its backend {keras.backend.backend()} before {asked}: set KERAS_BACKEND=torch"
        )
    return keras
