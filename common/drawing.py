"""How figures look: colours that the colour-blind tell apart, marks that say the same in grey, sizes, and saving.

Figures are drawn on `Figure` objects; matplotlib's global state (pyplot) is not touched, and no display is needed.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from common.errors import UsageError
from common.naming import printable

SUFFIXES = (".png", ".pdf", ".svg")

# Okabe and Ito, without the yellow, which white paper swallows
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
MARKERS = "osD^vPX"
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--")
GREY = "#777777"
GRID = "#dddddd"
_PALETTE = 96

_ALWAYS: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "grid.color": GRID,
    "hatch.linewidth": 0.7,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # letters stay letters in print
    "svg.fonttype": "none",
    "svg.hashsalt": "tandem",  # the same figure is the same file
    "text.parse_math": False,  # a run may be called $x$
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
}


@dataclass(frozen=True)
class Look:
    """Sizes and letters of a figure."""

    column_in: float
    """Width of a figure of one column."""
    page_in: float
    """Width of a figure across the page."""
    row_in: float
    """Height of a row of axes."""
    dpi: int
    """Of PNG."""
    suffix: str
    """Of a file that nobody named."""
    settings: Mapping[str, Any]

    def figure(self, rows: float, *, wide: bool = True) -> Figure:
        """An empty figure, ``rows`` of axes high."""
        width = self.page_in if wide else self.column_in
        return Figure(figsize=(width, self.row_in * rows), layout="constrained")

    @contextmanager
    def applied(self) -> Iterator["Look"]:
        """Draw and save in here: both look settings up."""
        with mpl.rc_context({**_ALWAYS, **self.settings}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands in the letter's place
            yield self


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "screen": Look(6.0, 9.0, 2.7, 100, ".png", {"font.size": 10.0}),
        # One column of a journal is 3.3 to 3.5 in wide, a page 6.9 to 7.2.
        "paper": Look(
            3.35,
            7.0,
            1.75,
            300,
            ".pdf",
            {
                "axes.linewidth": 0.6,
                "font.family": "STIXGeneral",  # comes with matplotlib, and looks like Times
                "font.size": 8.0,
                "grid.linewidth": 0.5,
                "lines.linewidth": 1.0,
                "lines.markersize": 3.5,
                "mathtext.fontset": "stix",
                "xtick.major.width": 0.6,
                "ytick.major.width": 0.6,
            },
        ),
    }
)


def plain(axis: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Light grid behind the data, no box."""
    axis.grid(axis=grid, color=GRID)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def line(place: int) -> dict[str, Any]:
    """Colour, dashes and marker of the line at a place; past the last colour, the dashes go on."""
    return {
        "color": COLORS[place % len(COLORS)],
        "linestyle": DASHES[(place + place // len(COLORS)) % len(DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
    }


def fill(place: int) -> dict[str, Any]:
    """Colour and hatch of the bars at a place."""
    return {
        "facecolor": COLORS[place % len(COLORS)],
        "edgecolor": "white",
        "hatch": HATCHES[(place + place // len(COLORS)) % len(HATCHES)],
        "linewidth": 0.5,
    }


def short(text: str, most: int = 28) -> str:
    """The text, or its end behind an ellipsis; nothing in it steers a terminal or the drawing."""
    clean = printable(text)
    return clean if len(clean) <= most else f"…{clean[1 - most :]}"


def check_files(flag: str, paths: Sequence[Path], suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse, before any work, what could not be written after it.

    Raises:
        UsageError: another suffix, no such folder, or a folder in the file's place.
    """
    for path in paths:
        if path.suffix.lower() not in suffixes:
            raise UsageError(f"--{flag} is {path}; its name must end in {' or '.join(suffixes)}")
        if not path.parent.is_dir():
            raise UsageError(f"--{flag} is {path}, but there is no folder {path.parent}; make it first")
        if path.is_dir():
            raise UsageError(f"--{flag} is {path}, which is a folder; name a file")


def save(figure: Figure, path: Path, dpi: float) -> None:
    """Save; the suffix of ``path`` says in which format, and what was drawn says all that is in the file.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        if path.suffix.lower() == ".png":
            _save_png(figure, path, dpi)
        else:
            undated = "CreationDate" if path.suffix.lower() == ".pdf" else "Date"
            figure.savefig(path, metadata={undated: None})
    except OSError as error:
        raise UsageError(f"the figure {path} cannot be written: {error.strerror}; name another file") from None


def _save_png(figure: Figure, path: Path, dpi: float) -> None:
    """With a palette: a figure has few colours, and the file is a third of what it were."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE).save(
            path, format="PNG", optimize=True, dpi=(dpi, dpi)
        )


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an ``<svg>`` element for a page that holds others: no id of one is another's.

    Args:
        figure: the figure.
        name: letters and digits; goes before all its ids.
        description: for readers who cannot see it; escaped already.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)  # a hundredth of a point
    body = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", body)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    return body.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)
