"""The programs as a user starts them: two processes, published flags, exit codes, one-line errors."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.config import parse
from common.errors import TandemError
from discriminative.options import ClientOptions
from discriminative.recipe import plan_job

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 100
# The tests' own processes share the cores with each other; threads that wait for each other there only slow them.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.slow


def run(command: Sequence[str], folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@contextmanager
def serving(command: Sequence[str], folder: Path = ROOT) -> Iterator[list[str]]:
    """A server process; yields the client's port flags. It must end well when it is told to."""
    words = [sys.executable, "-u", *command, "--port", "0", "--hyperport", "0"]
    with subprocess.Popen(
        words, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        found = re.search(r"port (\d+), hyperport (\d+)", server.stdout.readline())
        assert found
        yield ["--port", found[1], "--hyperport", found[2]]
        server.terminate()
        server.communicate(timeout=TIMEOUT_S)
        assert server.returncode == 0


def test_client_and_server_train_from_the_root_and_from_their_folder(images: str, tmp_path: Path) -> None:
    folder = ROOT / "discriminative"
    flags = ["--model", "resnet20", "--num_classes", "10", "--splits", "12", "--split_index", "3"]
    flags += ["--dataset", images, "--batch-size", "20", "--epochs", "2", "--stale_it", "1", "--optim", "resnet"]
    with serving(["server.py", "--run_dir", str(tmp_path), "--model", "resnet20"], folder) as ports:
        client = run(["-m", "discriminative.client", *ports, *flags, "--run_dir", str(tmp_path)])
    assert client.returncode == 0, client.stderr
    assert "held-out accuracy" in client.stdout
    made = Path(client.stdout.rpartition("records: ")[2].strip())
    expected = ("config.json", "environment.json", "metrics.jsonl", "epochs.csv", "trace.json", "head.safetensors")
    assert {*expected, "summary.json"} <= {file.name for file in made.iterdir()}
    assert any(file.name.startswith("events.out.tfevents") for file in made.iterdir())
    rows = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    keys = {"step", "epoch", "loss", "correct", "count", "staleness", "bytes_up", "bytes_down", "edge_s", "uplink_s"}
    assert len(rows) == 4
    assert keys | {"cloud_s", "downlink_s"} <= set(rows[0])
    summary = json.loads((made / "summary.json").read_text())
    assert summary["stages_s"].keys() == {"edge", "uplink", "cloud", "downlink"}
    assert summary["limit_s"] == max(summary["stages_s"].values())
    assert summary["limit_ratio"] == summary["step_time_s"] / summary["limit_s"]
    assert summary["bytes_up_per_step"] == sum(row["bytes_up"] for row in rows) / len(rows)
    for key in ("steps", "samples", "epochs", "accuracy", "loss", "stale_it", "cut", "compress_up", "compress_down"):
        assert key in summary
    for key in ("faults", "resumes", "wall_s", "edge_peak_memory_bytes", "parameters_digest"):
        assert key in summary
    names = {event.get("name", "").split()[0] for event in json.loads((made / "trace.json").read_text())["traceEvents"]}
    assert {"forward", "backward", "encode", "decode", "compute", "receive"} <= names
    assert any((each / "tail.safetensors").exists() for each in tmp_path.iterdir() if "server" in each.name)


def test_base_trains_in_one_process(images: str, tmp_path: Path) -> None:
    flags = ["--dataset", images, "--batch_size", "20", "--epochs", "1", "--use_EF", "1", "--run_dir", str(tmp_path)]
    done = run(["base.py", *flags, "--log_name", "ablation"], ROOT / "baseline")
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.iterdir()
    assert made.name.endswith("-ablation")
    assert json.loads((made / "summary.json").read_text())["bytes_up_per_step"] > 0


def test_edge_only_needs_no_server(images: str, tmp_path: Path) -> None:
    flags = ["--dataset", images, "--batch_size", "20", "--epochs", "1", "--splits", "12", "--split_index", "12"]
    done = run(["-m", "discriminative.client", *flags, "--run_dir", str(tmp_path), "--port", "1"])
    assert done.returncode == 0, done.stderr


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


FAULTS = [
    (["--epoch", "3"], 2, r"unknown flag --epoch; did you mean --epochs\?"),
    (["--stale_it", "-1"], 2, r"--stale_it is -1; it must be 0 or more"),
    (["--use_EF", "1", "--compress", "none"], 2, "none has no error"),
    (["--dataset", "npz:nowhere.npz"], 1, r"nowhere\.npz"),
    (["--dataset", "digit"], 2, "did you mean digits"),
    (["--model", "vgg20"], 2, "did you mean VGG"),
    (["--split_index", "99"], 2, "split_index is 99"),
    (["--splits", "99"], 2, "cannot be made into 99 slices"),
    (["--cut", "features.99"], 2, r"no cut 'features\.99'"),
    (["--compress_up", "int9"], 2, "did you mean int8"),
    (["--optim", "restnet"], 2, "did you mean resnet"),
    (["--num_classes", "5"], 1, "--num_classes"),
    (["--device", "cuda:9"], 2, "--device cpu always can"),
    (["--dataset", "cifar10", "--data_path", "/dev/null/x"], 1, "cifar"),
]


@pytest.mark.parametrize(("flags", "code", "message"), FAULTS, ids=[" ".join(flags) for flags, _, _ in FAULTS])
def test_what_cannot_be_carried_out_is_told_before_any_network(flags: list[str], code: int, message: str) -> None:
    with pytest.raises(TandemError, match=message) as told:
        plan(flags)
    assert told.value.exit_code == code


def plan(flags: list[str]) -> None:
    """What the client does before it connects."""
    options = parse(ClientOptions, flags)
    options.prepare()
    plan_job(options)


def test_an_error_is_one_line_and_an_exit_code() -> None:
    done = run(["-m", "discriminative.client", "--epoch", "3"])
    assert done.returncode == 2
    assert done.stderr == "error: unknown flag --epoch; did you mean --epochs?\n"
    assert not done.stdout


def test_a_wrong_port_names_the_flag_and_the_way_out(images: str) -> None:
    done = run(["-m", "discriminative.client", "--hyperport", str(free_port()), "--dataset", images])
    assert done.returncode == 1
    assert "(--hyperport): Connection refused; is the server running there" in done.stderr


def test_a_port_of_another_service_is_told(images: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail.example.org ESMTP Postfix\r\n")
                connection.settimeout(TIMEOUT_S)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        done = run(["-m", "discriminative.client", "--hyperport", str(port), "--dataset", images])
        thread.join()
    assert done.returncode == 1
    assert "does not speak Tandem's protocol" in done.stderr


def test_a_busy_port_is_told_by_the_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        done = run(["-m", "discriminative.server", "--port", str(busy.getsockname()[1]), "--hyperport", "0"])
    assert done.returncode == 1
    assert "(--port): Address already in use; choose another with --port" in done.stderr


def test_a_server_refuses_a_job_that_differs(images: str, tmp_path: Path) -> None:
    with serving(["-m", "discriminative.server", "--model", "VGG19", "--run_dir", str(tmp_path)]) as ports:
        done = run(["-m", "discriminative.client", *ports, "--dataset", images, "--model", "resnet20"])
    assert done.returncode == 1
    assert "refused the job: this server was started with --model VGG19, the client with resnet20" in done.stderr
