"""A run's timeline as a trace file that https://ui.perfetto.dev opens (Chrome's trace event format)."""

import json
from pathlib import Path

from common.training.journal import Span

_TRACKS = (
    "edge load",
    "edge forward",
    "edge backward",
    "edge encode",
    "edge loss",
    "edge decode",
    "edge evaluate",
    "uplink",
    "cloud decode",
    "cloud compute",
    "cloud encode",
    "downlink",
)


def write_trace(path: Path, spans: list[Span]) -> None:
    """Write ``spans``, a process each for edge, uplink, cloud and downlink, a row for each kind of work."""
    machines = list(dict.fromkeys(track.split()[0] for track in _TRACKS))
    events: list[dict[str, object]] = []
    for track in _TRACKS:
        pid, tid = machines.index(track.split()[0]), _TRACKS.index(track)
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": track.split()[0]}})
        events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": track}})
    origin = min((span.start_s for span in spans if span.start_s), default=0.0)
    for span in spans:
        if not span.start_s:
            continue  # in one process nothing is received
        events.append(
            {
                "ph": "X",
                "name": f"{span.name} {span.step}",
                "pid": machines.index(span.track.split()[0]),
                "tid": _TRACKS.index(span.track),
                "ts": (span.start_s - origin) * 1e6,
                "dur": span.seconds * 1e6,
                "args": {"step": span.step},
            }
        )
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
