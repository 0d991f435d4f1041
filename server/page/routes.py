"""`GET /`: the page that shows the exits at work, and the files it consists of."""

from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

DIRECTORY = Path(__file__).parent
INDEX = "page.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""The kinds of files that are served; others in the directory are not."""
CONTENT_SECURITY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Cache-Control": "no-cache",  # asked for again each time, sent only where it has changed
    "Content-Security-Policy": "; ".join(f"{k} {v}" for k, v in CONTENT_SECURITY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page, and the tag that changes with it."""

    content: bytes
    media_type: str
    etag: str


def read_files() -> dict[str, File]:
    """Every file of the page, by its path within the directory."""
    found: dict[str, File] = {}
    for path in sorted(DIRECTORY.rglob("*")):
        if path.suffix in MEDIA_TYPES and path.is_file():
            content = path.read_bytes()
            etag = f'"{sha256(content).hexdigest()[:32]}"'
            name = path.relative_to(DIRECTORY).as_posix()
            found[name] = File(content, MEDIA_TYPES[path.suffix], etag)
    return found


def page_router() -> APIRouter:
    """The page's routes. Its files are read once, here: a request opens no file."""
    files, router = read_files(), APIRouter(include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        return answer(request, files[INDEX])

    @router.get("/page/{name:path}")
    async def file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return answer(request, files[name])

    return router


def answer(request: Request, file: File) -> Response:
    """The file, or 304 where the browser has it."""
    headers = HEADERS | {"ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
