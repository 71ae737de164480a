"""services.common.errors: every error has a status of its own and a title; tracebacks are dropped with those of their causes."""

import pytest

from services.common.errors import GridcastError, ServiceUnavailable, drop_tracebacks


def error_classes(kind: type[GridcastError]) -> list[type[GridcastError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in error_classes(sub))]


@pytest.mark.parametrize("kind", error_classes(GridcastError), ids=lambda kind: kind.__name__)
def test_statuses_are_http(kind: type[GridcastError]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.title


def fail_twice() -> None:
    try:
        int("a")
    except ValueError as error:
        raise KeyError("lost") from error


def fail_thrice() -> None:
    try:
        fail_twice()
    except KeyError:
        raise ServiceUnavailable("away") from None


def test_tracebacks_are_dropped_with_those_of_the_causes() -> None:
    """Also where the chain of them has a loop."""
    with pytest.raises(ServiceUnavailable) as raised:
        fail_thrice()
    chain: list[BaseException] = [raised.value]
    while (error := chain[-1].__context__) is not None:
        chain.append(error)
    assert len(chain) == 3
    chain[-1].__cause__ = chain[0]
    assert all(error.__traceback__ for error in chain)
    drop_tracebacks(chain[0])
    assert [error.__traceback__ for error in chain] == [None] * 3
