"""The report: one page that is whole, escaped, and fetches nothing; in a browser it shows without a complaint."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.errors import UsageError
from common.figures.run_folder import open_runs
from common.report.page import page
from tests.made_runs import make_decisions, make_run

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
EMPTY = {"meta", "link", "br", "img", "hr", "input"}
NASTY = """x<script>alert(1)</script>"'&$_^"""


class Whole(HTMLParser):
    """Checks that elements are closed in order, and collects what a page could fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in EMPTY:
            self.open.append(tag)
        if tag in ("script", "iframe", "object", "embed", "base", "form", "img"):
            self.wrong.append(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.wrong.append(name)
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.fetched.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Whole:
    parser = Whole()
    parser.feed(text)
    parser.close()
    return parser


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs, one with decisions and energy, and one that has not ended."""
    tmp_path = tmp_path_factory.mktemp("runs")
    full = make_run(tmp_path / "20261122-120000-full", energy_mj=9e3)
    make_decisions(full)
    other = make_run(tmp_path / "20261122-120001-other", stale_it=0, compress_up="int4/c", accuracy=None)
    under_way = make_run(tmp_path / "20261122-120002-under way")
    for name in ("summary.json", "trace.json"):
        (under_way / name).unlink()
    return [full, other, under_way]


@pytest.fixture(scope="module")
def html(runs: list[Path]) -> str:
    """Their page; drawing it takes a second."""
    return page(open_runs(runs, ["a", "b", "c"]), "Two links")


@pytest.mark.slow
def test_a_page_is_whole_and_fetches_nothing(html: str) -> None:
    found = read(html)

    assert found.wrong == []
    assert found.open == []
    assert all(each.startswith("#") or each == "data:," for each in found.fetched)
    assert len(found.ids) == len(set(found.ids))
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\"' <)]*", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert html.count("<svg ") == 7
    assert "default-src 'none'" in html


@pytest.mark.slow
def test_the_page_says_what_the_files_say(html: str) -> None:
    text = read(html).text

    for said in (
        "Two links",
        "75.00 %",
        "1.25 x",
        "0.002 MB",
        "300 MiB",
        "9.0 J",
        "4c137d3e4c13",
        "int4/c",
        "log_name",
        "packages.torch",
        "client.py --x",
        "c has no summary.json, trace.json",
        "the same in all 3 runs: 2 of config.json",
        "Context and plan: a",
    ):
        assert said in text, said
    assert "Context and plan: b" not in text
    assert "nan" not in text.lower().split()


def test_what_a_run_holds_is_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", model=NASTY, cut_name=NASTY)
    (run / "config.json").write_text('{"<b>": "<img src=x onerror=alert(1)>"}')
    (run / "trace.json").unlink()
    (run / "metrics.jsonl").unlink()
    text = page(open_runs([run], [NASTY]), NASTY)
    found = read(text)

    assert found.wrong == []
    assert found.open == []
    assert NASTY in found.text
    assert "<img src=x onerror=alert(1)>" in found.text


def test_a_file_that_is_broken_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json is no JSON: .*; every run writes it at its start"):
        page(open_runs([run]))


def report(flags: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "common.report", *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_the_program_writes_the_page_and_tells_errors_in_a_line(runs: list[Path], tmp_path: Path) -> None:
    done = report([str(runs[2]), "--out", "page.html"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "report: page.html\n", "")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    failed = report([str(tmp_path / "none")], tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: there is no run folder ")
    assert failed.stderr.count("\n") == 1


def in_browser(path: Path, profile: Path) -> tuple[str, list[str]]:
    """The page's elements as the browser built them, and what it wrote to its console."""
    found = next((each for each in map(shutil.which, BROWSERS) if each), None)
    if found is None:
        pytest.skip(f"no browser here to open the page in ({', '.join(BROWSERS)}); Debian: apt install chromium")
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage", "extensions")
    flags = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{each}" for each in quiet)]
    done = subprocess.run(
        [found, *flags, f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_a_browser_shows_the_page_without_a_complaint(html: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    dom, console = in_browser(path, tmp_path / "profile")

    assert console == []
    assert dom.count("<svg ") == 7
    assert "</html>" in dom
    assert "packages.torch" in dom


@pytest.mark.slow
def test_the_browser_would_complain(tmp_path: Path) -> None:
    """What the check above rests on: a page that runs or fetches something is in the console."""
    path = tmp_path / "bad.html"
    path.write_text("<!DOCTYPE html><title>x</title><script>console.error('wrong'); undefined.x;</script>")
    _, console = in_browser(path, tmp_path / "profile")

    assert len(console) == 2


@pytest.mark.slow
def test_a_real_run_is_read(images: str, tmp_path: Path) -> None:
    flags = ["--dataset", images, "--batch_size", "10", "--epochs", "1", "--stale_it", "1", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "baseline.base", *flags, "--run_dir", str(tmp_path), "--log_name", "real"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    html = page(open_runs(list(tmp_path.iterdir())))
    found = read(html)
    assert found.wrong == []
    assert html.count("<svg ") >= 5
    assert "real" in found.text
    assert "has no" not in found.text
