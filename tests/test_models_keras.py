"""A Keras model from a file: named like others once loaded, run on torch, and safe to open."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.errors import UsageError
from common.models.of_keras import _imported
from common.models.own import choose_model
from common.models.registry import choose
from discriminative.options import JobOptions
from discriminative.recipe import plan_job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def keras() -> Any:
    pytest.importorskip("h5py")
    try:
        return _imported("the tests")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture
def path(keras: Any, tmp_path: Path) -> Path:
    layers = keras.layers
    images = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(images)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", name="second")(x)])
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    keras.Model(images, layers.Dense(10, name="last")(x)).save(tmp_path / "small.keras")
    return tmp_path / "small.keras"


def test_it_computes_what_keras_does(keras: Any, path: Path) -> None:
    chosen = choose_model(str(path))
    model = chosen.build(10)
    (x,) = chosen.example(4)

    expected = keras.saving.load_model(path).predict(x.numpy(), verbose=0)

    assert x.shape == (4, 16, 16, 3)
    for training in (False, True):
        with torch.no_grad():
            assert torch.allclose(model.train(training)(x), torch.from_numpy(expected), atol=1e-6)


def test_names_are_those_of_the_layers_at_every_load(path: Path) -> None:
    first, second = (choose_model(str(path)).build(10) for _ in range(2))

    assert list(first.state_dict()) == list(second.state_dict())
    assert {name for name, each in first.named_parameters() if each.requires_grad} == {
        *("first.kernel", "first.bias", "norm.gamma", "norm.beta"),
        *("second.kernel", "second.bias", "last.kernel", "last.bias"),
    }
    assert set(first.state_dict()) - {name for name, each in first.named_parameters() if each.requires_grad} == {
        "norm.moving_mean",
        "norm.moving_variance",
    }


def test_gradients_reach_its_parameters(path: Path) -> None:
    chosen = choose_model(str(path))
    model = chosen.build(10)

    model(*chosen.example(2)).sum().backward()

    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)


def test_a_sequential_model_has_each_parameter_once(keras: Any, tmp_path: Path) -> None:
    layers = [keras.Input((8,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")]
    keras.Sequential(layers).save(tmp_path / "two.keras")
    chosen = choose_model(str(tmp_path / "two.keras"))

    model = chosen.build(10)

    assert list(model.state_dict()) == ["a.kernel", "a.bias", "b.kernel", "b.bias"]
    assert model(*chosen.example(2)).shape == (2, 3)


def test_several_inputs_and_whole_numbers(keras: Any, tmp_path: Path) -> None:
    words, sizes = keras.Input((6,), dtype="int32"), keras.Input((3,))
    x = keras.layers.Flatten()(keras.layers.Embedding(9, 4)(words))
    keras.Model([words, sizes], keras.layers.Concatenate()([x, sizes])).save(tmp_path / "pair.keras")
    chosen = choose_model(str(tmp_path / "pair.keras"))

    example = chosen.example(2)

    assert [(each.shape, each.dtype) for each in example] == [((2, 6), torch.int64), ((2, 3), torch.float32)]
    assert chosen.build(10)(*example).shape == (2, 27)


def test_sizes_that_the_file_leaves_open(keras: Any, tmp_path: Path) -> None:
    images = keras.Input((None, None, 3))
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)).save(tmp_path / "open.keras")
    chosen = choose_model(str(tmp_path / "open.keras"))

    with pytest.raises(UsageError, match="this model takes anyxanyx3 of one sample: name an --input of three sizes"):
        chosen.example(2)
    assert chosen.build(10)(*chosen.example(2, (8, 8, 3))).shape == (2, 3)


def test_a_file_with_code_of_its_own_is_refused(keras: Any, tmp_path: Path) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)]).save(tmp_path / "trap.keras")

    with pytest.raises(UsageError, match=r"trap\.keras cannot be built: .*[Ll]ambda"):
        choose_model(str(tmp_path / "trap.keras"))


def test_what_is_no_model(keras: Any, tmp_path: Path) -> None:
    (tmp_path / "none.keras").write_bytes(b"nothing")

    with pytest.raises(UsageError, match=r"none\.keras cannot be built: "):
        choose_model(str(tmp_path / "none.keras"))
    with pytest.raises(UsageError, match="there is no file"):
        choose_model(str(tmp_path / "missing.keras"))


def test_it_is_for_no_job_and_for_no_peer(path: Path, images: str) -> None:
    with pytest.raises(UsageError, match=r"small\.keras is no image classifier; training takes only those"):
        plan_job(JobOptions(model=str(path), dataset=images))
    with pytest.raises(UsageError, match="no model is called"):
        choose(str(path))


def test_another_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(__import__("sys").modules, "keras", other)

    with pytest.raises(UsageError, match="Keras was imported on its backend jax before x: set KERAS_BACKEND=torch"):
        _imported("x")
