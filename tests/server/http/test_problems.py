"""One table says which status an error has."""

from http import HTTPStatus

import pytest

from server.errors import BadBody, BadParameter, BodyTooLate, Overloaded
from server.http.problems import STATUS, Problem, find, problem_of, reply_of


class Busier(Overloaded):
    """A kind of Overloaded that the table does not name."""


class Slower(BodyTooLate):
    """A kind of BodyTooLate that neither table names."""


def test_an_error_of_a_subclass_gets_its_parents_status_and_headers() -> None:
    assert find(STATUS, Busier("full")) is HTTPStatus.SERVICE_UNAVAILABLE
    problem, headers = problem_of(Busier("full"))
    assert (problem.status, problem.detail) == (503, "full")
    assert headers["Retry-After"] in ("1", "2", "3")
    problem, headers = problem_of(Slower("late"))
    assert (problem.status, headers) == (408, {"Connection": "close"})


def test_the_nearest_class_decides() -> None:
    table: dict[type[Exception], int] = {Exception: 1, Overloaded: 2}
    assert [find(table, error) for error in (Busier(), BadBody(), KeyError())] == [2, 1, 1]
    assert find({Overloaded: 2}, BadBody()) is None


def test_an_unknown_error_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    problem, headers = problem_of(KeyError("secret"))
    assert (problem.status, headers) == (500, {})
    assert "secret" not in problem.detail
    (line,) = caplog.records
    assert line.exc_info is not None


def test_a_problem_is_written_once_and_never_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a problem was read from JSON")

    for name in ("model_validate_json", "model_validate"):
        monkeypatch.setattr(Problem, name, fail)
    for reader in ("json.loads", "orjson.loads"):
        monkeypatch.setattr(reader, fail)
    error = BadParameter("top_k", "too many")
    assert reply_of(error, "/v1/classify").body == (
        b'{"title":"Unprocessable Entity","status":422,"detail":"top_k: too many",'
        b'"errors":[{"field":"top_k","detail":"too many"}]}'
    )
    said = reply_of(error, "/v2/models/x/infer")
    assert (said.status, said.body) == (400, b'{"error":"top_k: too many"}')
