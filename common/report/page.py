"""The page of a report: its parts in order, escaped, in a frame that lets nothing in from outside."""

from collections.abc import Sequence
from html import escape

from common.figures.run_folder import RunFolder
from common.report.pictures import Picture, pictures
from common.report.tables import differences, epochs, results

# No script, no font, no picture from anywhere: a browser refuses what should not be in the page at all.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.note, figcaption, caption { color: #555; font-size: .9rem; text-align: left; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; min-width: 5rem; max-width: 26rem; }
th { white-space: nowrap; } tbody th { font-weight: 500; padding-left: 0; } thead th { border-bottom: 2px solid #999; }
td.number, th.number { text-align: right; }
figure { margin: 1.2rem 0 2rem; } figure svg { max-width: 100%; height: auto; }
details { margin: .8rem 0; } summary { cursor: pointer; }
@media print { details > * { display: block; } figure, tr { break-inside: avoid; } }
"""


def page(runs: Sequence[RunFolder], title: str = "") -> str:
    """The HTML of a report.

    Args:
        runs: one or several run folders.
        title: its heading; default the runs' names.

    Raises:
        UsageError: a file of a run that is not what it should be. Files that are missing are told in the page.
    """
    heading = escape(title or (runs[0].label if len(runs) == 1 else f"{len(runs)} runs"))
    # What takes no time comes first: a file that is broken is told at once.
    asked = [(run.label, run.config if run.has("config.json") else {}) for run in runs]
    where = [(run.label, run.environment if run.has("environment.json") else {}) for run in runs]
    tables = _epochs(runs)
    drawn, missing = pictures(runs)
    parts = [
        f"<h1>{heading}</h1>",
        f'<p class="note">{"; ".join(escape(str(run.folder)) for run in runs)}</p>',
        *(f'<p class="note">{escape(each)}</p>' for each in missing),
        "<h2>Results</h2>",
        results(runs),
        *(_figure(each) for each in drawn),
        "<h2>What was asked</h2>",
        differences("config.json", asked),
        "<h2>Where it ran</h2>",
        differences("environment.json", where),
        *tables,
    ]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _figure(each: Picture) -> str:
    return f"<h2>{escape(each.title)}</h2>\n<figure>{each.svg}<figcaption>{escape(each.caption)}</figcaption></figure>"


def _epochs(runs: Sequence[RunFolder]) -> list[str]:
    with_epochs = [run for run in runs if run.has("epochs.csv")]
    if not with_epochs:
        return []
    return [
        "<h2>Epochs</h2>",
        *(f"<details><summary>{escape(run.label)}</summary>{epochs(run)}</details>" for run in with_epochs),
    ]
