"""Options that make no sense, alone or together, are told with the flag, the value and the way out."""

from typing import Any

import pytest
import torch

from common.config import parse
from common.errors import UsageError
from discriminative.options import DEFAULT_DOWN, DEFAULT_UP, BaseOptions, ClientOptions, JobOptions
from discriminative.server_options import ServerOptions


@pytest.mark.parametrize("options", [ClientOptions, BaseOptions])
def test_the_defaults_make_sense(options: type[JobOptions]) -> None:
    options().check()
    options().prepare()

    assert options().codecs == (DEFAULT_UP, DEFAULT_DOWN)
    assert options() == parse(options, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "--epochs is -1; it must be 0 or more"),
        ({"batch_size": 0}, "--batch_size is 0; it must be 1 or more"),
        ({"num_classes": 0}, "--num_classes is 0; it must be 1 or more"),
        ({"stale_it": -1}, "--stale_it is -1; it must be 0 or more"),
        ({"seed": -1}, "--seed is -1; it must be 0 or more"),
        ({"seed": 1 << 63}, "--seed is 9223372036854775808; it must be below 2**63"),
        ({"report_freq": 0}, "--report_freq is 0; it must be 1 or more"),
        ({"workers": -1}, "--workers is -1; it must be 0 or more"),
        ({"checkpoint_every": -2}, "--checkpoint_every is -2; it must be -1 or more"),
        ({"move": ("3",)}, "--move 3 is no STEP:CUT, such as 100:layer3"),
        ({"track_weights": 1, "track_point": ("1,x",)}, "--track_point has 'x'; slices are numbers, from 0"),
        ({"track_point": ("0", "1")}, "--track_point says which slices --track_weights 1 watches; add that"),
        ({"splits": -1}, "--splits is -1; it must be 0 or more"),
        ({"split_index": -1}, "--split_index is -1; it must be 0 or more"),
        ({"cut": "features.3", "split_index": 2}, "--cut names the cut that"),
        ({"cut": "features.3", "splits": 19}, "--cut names the cut that"),
        ({"lr": -0.1}, "--lr is -0.1; it must be 0 or more"),
        ({"lr": float("nan")}, "--lr is nan; it must be 0 or more"),
        ({"lr": float("inf")}, "--lr is inf; it must be 0 or more"),
        ({"dropout": 1.0}, "--dropout is 1.0; it is a probability, 0 up to 1"),
        ({"dropout": -0.1}, "--dropout is -0.1"),
        ({"dropout": float("nan")}, "--dropout is nan"),
        ({"optim": "restnet"}, "unknown --optim 'restnet'; did you mean resnet?"),
        ({"compress_up": "int9"}, "codec 'int9': unknown stage 'int9'; did you mean int8?"),
        ({"compress": "delta+int4"}, "codec 'delta+int4': delta relies on a sample's tensor being near what it was"),
        ({"compress_up": "ef+int4"}, "codec 'ef+int4': ef would add one sample's error to another sample's"),
        ({"compress_up": "x.py:Codec"}, "there is no file x.py to load a codec from"),
        ({"compress": "int8+zst"}, "codec 'int8+zst': unknown stage 'zst'; did you mean zstd?"),
    ],
)
def test_a_value_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ClientOptions(**changes).check()

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compress": "int8", "compress_up": "int8", "compress_down": "fp16"},
            "--compress says the same as --compress_up and --compress_down; leave it out",
        ),
        ({"use_EF": 1, "compress_up": "none"}, "--use_EF 1 corrects the error of --compress_up, and none has no error"),
        ({"use_EF": 1, "compress": "none+shuffle+zstd"}, "--use_EF 1 corrects the error of --compress_up"),
        ({"use_EF": 1, "compress": "none+zstd"}, "--use_EF 1 corrects the error of --compress_up"),
    ],
)
def test_values_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ClientOptions(**changes).check()

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "codecs"),
    [
        ({"compress": "none"}, ("none", "none")),
        ({"compress": "fp16", "compress_up": "int8+zstd"}, ("int8+zstd", "fp16")),
        ({"compress": "none", "compress_down": "int8"}, ("none", "int8")),
        ({"compress_down": "none"}, (DEFAULT_UP, "none")),
        ({"use_EF": 1, "compress": "none", "compress_up": "int8"}, ("int8", "none")),
    ],
)
def test_a_codec_of_one_direction_goes_before_that_of_both(changes: dict[str, Any], codecs: tuple[str, str]) -> None:
    options = ClientOptions(**changes)
    options.check()

    assert options.codecs == codecs


def test_servers_have_no_edge_to_slow_down() -> None:
    with pytest.raises(UsageError, match="unknown flag --slowdown"):
        parse(ServerOptions, ["--slowdown", "2"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": -1}, "--threads must be 0 or more, and --queue_limit 1 or more"),
        ({"queue_limit": 0}, "--threads must be 0 or more, and --queue_limit 1 or more"),
        ({"codec_memory_mb": 0}, "--codec_memory_mb is 0; it must be 1 or more"),
        ({"device": "gpu"}, "--device gpu cannot be used: "),
        ({"device": "cuda:99"}, "--device cuda:99 cannot be used: "),
    ],
)
def test_a_machine_that_cannot_compute_so(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServerOptions(**changes).prepare()

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_threads_are_set_where_they_are_given() -> None:
    before = torch.get_num_threads()
    try:
        ServerOptions(threads=1).prepare()
        assert torch.get_num_threads() == 1
        ServerOptions(threads=0).prepare()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_published_spellings_are_taken() -> None:
    argv = ["--stale_it", "2", "--use_EF", "1", "--manualSeed", "7", "--split-index", "3", "--optim", "resnet_pre"]

    options = parse(ClientOptions, argv)

    assert (options.stale_it, options.use_EF, options.seed, options.split_index) == (2, 1, 7, 3)
    assert options.optim == "resnet_pre"
