"""The error tree: every failure that a user can meet, with its exit code."""


class TandemError(Exception):
    """A failure told in one sentence: who broke what, the numbers, the way out."""

    exit_code = 1


class UsageError(TandemError):
    """A flag, or a combination of flags, that cannot be carried out."""

    exit_code = 2


class DataError(TandemError):
    """A data set that is missing, unreadable or does not fit the job."""


class PartitionError(TandemError):
    """A model that cannot be cut, or a cut that does not exist in it."""


class CodecError(TandemError):
    """Tensors that cannot be encoded, or bytes that do not decode to what was announced."""


class ProtocolError(TandemError):
    """Bytes or messages from the peer that break the protocol."""


class SecurityError(TandemError):
    """A peer that could not show who it is, or that protects the connection otherwise than this side."""


class JobRefused(TandemError):
    """A job that this server will not carry out."""


class PeerError(TandemError):
    """The peer refused or failed, and said why."""


class SessionGone(TandemError):
    """The peer does not have the session that was asked for (any more)."""


class ConnectionLost(TandemError):
    """The connection to the peer could not be made, or broke."""


class Unreachable(ConnectionLost):
    """No connection could be made."""


class PeerSilent(ConnectionLost):
    """No byte moved for too long."""
