"""Why a request is refused: plain classes that know no status codes."""

from collections.abc import Sequence
from typing import Any, Self

Complaint = dict[str, str]
UNKNOWN = "no such parameter; /docs lists all"


class FieldError(Exception):
    """A refusal that names the field at fault, where there is one."""

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail, self.field = detail, field


class RowError(FieldError):
    """A refusal of a row: its sentence begins with the row's name, where there are several."""

    def __str__(self) -> str:
        return self.detail if self.field is None else f"{self.field}: {self.detail}"


class BadImage(RowError):
    """The bytes are no image that can be decoded."""


class ImageTooLarge(RowError):
    """The image has more pixels than may be decoded."""


class TextTooLong(RowError):
    """The text has more characters than are read."""


class UnknownModel(FieldError):
    """No such model or version is served."""


class NotReady(FieldError):
    """The server, or a model that it knows, cannot answer now."""


class Infeasible(FieldError):
    """A strict request; decoding and exit 1 are expected to take more than its budget."""


class BadBody(Exception):
    """The body is not what its content type says."""


class BodyTooLarge(Exception):
    """The body has more bytes than are read."""


class BodiesTooLarge(Exception):
    """The bodies of all requests together have more bytes than are held."""


class BodyTooLate(Exception):
    """The body has not arrived in the time that is given to it."""


class UnsupportedMedia(Exception):
    """The server does not take bodies of this content type."""


class Unauthenticated(Exception):
    """The request has no key, or one that the server does not know."""


class Forbidden(Exception):
    """The server lets no client do this."""


class Draining(Exception):
    """The server is about to end and takes no more work."""


class Overloaded(Exception):
    """There is no slot for another job, or no time.

    The request lacked `lacked_s` of work. One that asks for the same and arrives less than `late_s`
    after it would be refused as well.
    """

    def __init__(self, detail: str = "", lacked_s: float = 0.0, late_s: float = 0.0) -> None:
        super().__init__(detail)
        self.lacked_s, self.late_s = lacked_s, late_s

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Elsewhere it says nothing of the requests that come there."""
        return type(self), (str(self),)


class TooManyConnections(Overloaded):
    """As many connections are open as may be."""


class TooManyRequests(Overloaded):
    """As many requests are in progress as may be."""


class Unavailable(Exception):
    """A model keeps failing before any exit can answer."""


class GraphFailed(Exception):
    """A segment or an exit head failed for a batch."""


class GraphOutOfUse(GraphFailed):
    """The graph was not run: it has failed again and again."""


class NoAnswer(Exception):
    """Something failed, and the job had no answer to fall back on."""


class ClientGone(Exception):
    """The client went away before its answer: nothing more is sent."""


class BadParameter(Exception):
    """Parameters that cannot be used; `errors` names every field and what is wrong with it."""

    def __init__(self, field: str, detail: str, *others: Complaint) -> None:
        super().__init__(f"{field}: {detail}")
        self.errors = [{"field": field, "detail": detail}, *others]

    @classmethod
    def of(cls, errors: Sequence[Any]) -> Self:
        """From pydantic's or FastAPI's error dictionaries."""
        first, *others = map(complaint, errors)
        return cls(first["field"], first["detail"], *others)


def complaint(error: dict[str, Any]) -> Complaint:
    """One of pydantic's errors; FastAPI puts where a parameter was before its name."""
    loc = error["loc"]
    if len(loc) > 1 and loc[0] in ("query", "path", "body"):
        loc = loc[1:]
    is_unknown = error["type"] == "extra_forbidden"
    detail = UNKNOWN if is_unknown else str(error["msg"]).removeprefix("Value error, ")
    return {"field": ".".join(map(str, loc)) or "body", "detail": detail}
