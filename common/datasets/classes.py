"""Whether a job's number of classes is that of the data."""

from common.errors import DataError


def require_classes(name: str, found: int, asked: int) -> None:
    """Raises DataError where a job asks for another number of classes than the data have."""
    if found != asked:
        raise DataError(f"{name} has {found} classes but --num_classes is {asked}: pass --num_classes {found}")
