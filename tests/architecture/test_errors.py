"""Errors, reasons and codes belong together one to one."""

from __future__ import annotations

from collections.abc import Iterator

from google.rpc import code_pb2

from aisle.v1.error_reason_pb2 import ErrorReason
from server import errors
from server.interceptors.status import CODES, status_of


def _family(kind: type[errors.AisleError]) -> Iterator[type[errors.AisleError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def _ours() -> list[type[errors.AisleError]]:
    return [kind for kind in _family(errors.AisleError) if kind.__module__ == errors.__name__]


def test_every_error_has_a_reason_of_its_own_and_every_reason_an_error() -> None:
    """Each class of `server.errors` has one value of ErrorReason; UNIMPLEMENTED, which no code of ours raises, has none."""
    reasons = [kind.reason for kind in _ours()]
    assert len(set(reasons)) == len(reasons)
    assert {*reasons, "UNIMPLEMENTED", "ERROR_REASON_UNSPECIFIED"} == set(ErrorReason.keys())


def test_every_error_has_a_code() -> None:
    """Each class, or the one it refines, stands in the table of codes; the base alone is INTERNAL."""
    for kind in _ours():
        error = kind.__new__(kind)
        Exception.__init__(error)
        error.message, error.metadata = "m", {}
        for name, value in (("field", "f"), ("description", "d"), ("retry_after_s", 0.5)):
            setattr(error, name, value)
        code = status_of(error).code
        assert (code == code_pb2.INTERNAL) == (kind is errors.AisleError), kind
    assert set(CODES) <= set(_ours())
