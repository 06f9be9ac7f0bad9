"""Tables that users bring as text: UTF-8, with or without the mark that spreadsheets put in front of it."""

from pathlib import Path

from common.errors import DataError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_utf8(path: Path) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        DataError: it is in another encoding; with how to convert it.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        encoding = "utf-16" if content.startswith(_UTF16) else "latin1"
        raise DataError(
            f"{path} is not UTF-8: line {line} has the byte 0x{content[error.start]:02x}; convert it, as with "
            f"iconv -f {encoding} -t utf-8 {path.name} > {path.stem}-utf8{path.suffix}"
        ) from None
