"""The long run by hand: ``python -m tests.fuzz --seconds 600 [--seed 1] [--target frames]``."""

import contextlib
import faulthandler
import logging
import resource
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from common.command import run_command
from common.config import parse
from common.errors import TandemError
from tests.fuzz.frames import Fuzzer, peak_mb
from tests.fuzz.live import LiveFuzzer
from tests.fuzz.steady import serving
from tests.secure import made

_HANG_S = 120.0  # without a word from the loop: the stacks of all threads are shown, and the program ends
_HEADROOM_BYTES = 2 << 30  # of address space, behind what is in use at the start
_REPORT_S = 60.0


@dataclass(frozen=True)
class Options:
    """Fuzz frames and decoders in this process, then a live server without TLS, then one with it."""

    seconds: float = 60.0
    """How long, all in all."""
    seed: int = 0
    """Of the random numbers; another seed tries other frames."""
    target: Literal["all", "frames", "plain", "tls"] = "all"
    """What to fuzz; all of them share the time."""
    out: Path = Path("fuzz-findings")
    """Where frames are kept that should not have done what they did."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Fuzz and report; ends with 1 where anything was found."""
    options = parse(Options)
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.CRITICAL)  # the server's own words about all this
    targets = ("frames", "plain", "tls") if options.target == "all" else (options.target,)
    for target in targets:
        until = time.monotonic() + options.seconds / len(targets)
        if target == "frames":
            _frames(options, until)
        else:
            _live(options, until, protected=target == "tls")
    faulthandler.cancel_dump_traceback_later()


def _frames(options: Options, until: float) -> None:
    fuzzer = Fuzzer(options.seed)
    fuzzer.run(2000)
    before_mb, started, findings = peak_mb(), time.monotonic(), 0
    report_at = started
    with _limited_memory():
        while time.monotonic() < until:
            faulthandler.dump_traceback_later(_HANG_S, exit=True)
            try:
                fuzzer.run(1000)
            except Exception:  # noqa: BLE001 - whatever it is, it is what was looked for
                findings += 1
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / f"frame-{options.seed}-{fuzzer.tally.frames}.bin").write_bytes(fuzzer.last)
                traceback.print_exc()
                if findings == 20:
                    break
            if time.monotonic() > report_at:
                report_at += _REPORT_S
                _report_frames(fuzzer, before_mb, started, findings)
    _report_frames(fuzzer, before_mb, started, findings)
    if findings:
        raise TandemError(f"{findings} findings; the frames are in {options.out}")


def _report_frames(fuzzer: Fuzzer, before_mb: float, started: float, findings: int) -> None:
    tally, seconds = fuzzer.tally, time.monotonic() - started
    told = ", ".join(f"{name} {count}" for name, count in tally.outcomes.most_common())
    print(
        f"frames: {tally.frames} ({tally.nbytes / 1e6:.0f} MB) in {seconds:.0f} s, {findings} findings, "
        f"peak memory {before_mb:.0f} -> {peak_mb():.0f} MiB; {told}",
        flush=True,
    )


def _live(options: Options, until: float, *, protected: bool) -> None:
    name = "a server with TLS" if protected else "a server without TLS"
    with tempfile.TemporaryDirectory() as folder:
        server_side, client_side = made(Path(folder) / "security") if protected else (None, None)
        with serving(Path(folder) / "runs", server_side) as server:
            fuzzer = LiveFuzzer(server, client_side, options.seed)
            with fuzzer.steady() as steady:
                before_mb, connections, report_at = peak_mb(), 0, time.monotonic() + _REPORT_S
                while time.monotonic() < until:
                    faulthandler.dump_traceback_later(_HANG_S, exit=True)
                    fuzzer.one()
                    steady.check()
                    connections += 1
                    if time.monotonic() > report_at:
                        report_at += _REPORT_S
                        print(f"{name}: {connections} so far", flush=True)
                fuzzer.finish()
            left = fuzzer.left_over()
        told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(fuzzer.outcomes.items()))
        print(
            f"{name}: {connections} hostile connections or sessions, {steady.steps} steps of an honest session beside "
            f"them, peak memory {before_mb:.0f} -> {peak_mb():.0f} MiB, {left} threads left over; {told}",
            flush=True,
        )
        if left > 0:
            raise TandemError(f"{left} threads of ended connections are still there")


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Whatever allocates far beyond the limits of a frame fails, and is found."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _HEADROOM_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


if __name__ == "__main__":
    run_command(main)
