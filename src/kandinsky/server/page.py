"""The page: files of our own, read once, under a policy that lets nothing else in."""

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from kandinsky.server.errors import ApiError

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent / "web"
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Scripts, styles and images of this server alone, nothing inline, and no text that becomes markup."""
PERMISSIONS = "camera=(), microphone=(), geolocation=(), payment=(), usb=()"


@cache
def files() -> dict[str, tuple[bytes, str, str]]:
    """The files of the page by their paths: bytes, type and tag."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in MEDIA:
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
            found[f"/web/{path.relative_to(FOLDER).as_posix()}"] = (data, MEDIA[path.suffix], tag)
    return {"/": found["/web/index.html"], **found}


def is_page(path: str) -> bool:
    """Whether a path is one of the page's, for which no token is asked: they hold nothing of anybody."""
    return path in files()


@router.get("/")
@router.get("/web/{name:path}")
async def page(http: HttpRequest) -> Response:
    """A file of the page."""
    found = files().get(http.url.path)
    if found is None:
        raise ApiError(404, "There is no such page.", code="not_found")
    data, media, tag = found
    headers = {
        "content-security-policy": POLICY,
        "permissions-policy": PERMISSIONS,
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",
        "etag": tag,
    }
    if http.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media, headers=headers)
