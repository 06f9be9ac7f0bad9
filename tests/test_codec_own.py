"""Value stages of a user's own: from a file or by name, and never because a peer says so."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.codec import Context, load_own, make_codec, register
from common.codec.context import Place
from common.codec.values import Params, Plain
from common.errors import CodecError, UsageError

DOCS = (Path(__file__).parent.parent / "docs" / "codecs.md").read_text()
EXAMPLE = DOCS.split("```python\n")[1].split("```")[0]


def example(name: str) -> str:
    """The codec of the documentation, under a name of its own: names are this process's."""
    return EXAMPLE.replace("class Sign", f"class {name}")


@pytest.fixture
def sign_file(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A file with a codec of a name that no other test has."""
    name = "".join(each for each in request.node.name.title() if each.isalnum())
    path = tmp_path / "signs.py"
    path.write_text(example(name))
    return f"{path}:{name}"


def test_a_codec_from_a_file_goes_with_all_stages(sign_file: str) -> None:
    name = sign_file.rpartition(":")[2]
    tensor = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    for template in ("{}", "{}+zstd", "topk:0.1+{}", "ef+{}", "delta+topk:0.25+{}+auto"):
        spec = load_own(template.format(sign_file))
        assert spec == template.format(f"own:{name}")
        at = Context(0, ids=torch.arange(8))
        (decoded,) = make_codec(spec).decode(make_codec(spec).encode([tensor], at), at)
        assert decoded.shape == tensor.shape
        assert (decoded * tensor >= 0).all()

    assert make_codec(f"own:{name}").encode([tensor], 0).nbytes == tensor.numel() // 8
    with pytest.raises(CodecError, match="step 4: tensor 0 has NaN"):
        make_codec(f"own:{name}").encode([tensor / 0], 4)


def test_a_codec_is_registered_by_name_once() -> None:
    @register("test_mine")
    class Mine(Plain):
        pass

    assert make_codec("own:test_mine+zstd").name == "own:test_mine+zstd"
    assert register("test_mine")(Mine) is Mine
    with pytest.raises(UsageError, match="there is a codec own:test_mine already"):
        register("test_mine")(Plain)
    with pytest.raises(UsageError, match="'a b' is no name for a codec"):
        register("a b")


def test_a_codec_that_lacks_a_method_is_told() -> None:
    register("test_half")(object)  # type: ignore[type-var]

    with pytest.raises(UsageError, match="own:test_half has no method encode, nbytes, decode"):
        make_codec("own:test_half")


def test_a_codec_that_adds_is_told_before_the_peer_is() -> None:
    @register("test_twice")
    class Twice(Plain):
        def encode(self, values: Tensor, place: Place) -> tuple[Params, Tensor]:
            return (), torch.cat([super().encode(values, place)[1]] * 2)

    with pytest.raises(CodecError, match="step 2: 'own:test_twice' makes 800 bytes of tensor 0, which has 400"):
        make_codec("own:test_twice").encode([torch.ones(100)], 2)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("missing.py:Codec", None, "there is no file"),
        ("codec_a.py:Other", "class Codec: pass", "has no codec 'Other'; Known: Codec"),
        ("codec_b.py:torch", "import torch", "has no codec 'torch'"),
        ("codec_c.py:Codec", "1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("codec_d.py:Codec", "class Codec: pass", "has no method encode, nbytes, decode"),
    ],
)
def test_a_file_that_is_no_codec_is_told(tmp_path: Path, name: str, source: str | None, message: str) -> None:
    if source is not None:
        (tmp_path / name.partition(":")[0]).write_text(source)

    with pytest.raises(UsageError, match=message):
        make_codec(load_own(f"ef+{tmp_path}/{name}"))


def test_what_names_no_file_stays_as_it_is() -> None:
    for spec in ("int4/c+zstd", "own:mine", "", "topk:0.1"):
        assert load_own(spec) == spec


def test_a_peers_spec_loads_no_file(sign_file: str) -> None:
    with pytest.raises(UsageError, match="unknown stage"):
        make_codec(sign_file)
    with pytest.raises(UsageError, match=r"this machine has loaded no codec .*--own_codec path/to/file.py:"):
        make_codec(f"own:{sign_file.rpartition(':')[2]}")
