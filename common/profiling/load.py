"""A profile by what a user calls it: a measured one by its file, a published one as ``runtime_MODEL.csv:DEVICE``."""

from pathlib import Path

from common.profiling.profile import Profile
from common.profiling.profile_file import load_profile
from common.profiling.published import read_published


def load(text: str) -> Profile:
    """The profile that a text names.

    Raises:
        UsageError: there is none, or it holds something else.
    """
    name, colon, device = text.rpartition(":")
    if colon and name.endswith(".csv"):
        return read_published(Path(name), device)
    return load_profile(Path(text)).profile(text)
