"""The ingress's repository: it finds models and changes none."""

from server.errors import Forbidden
from server.zoo.repository import Repository

FIXED = "engines keep the bundles that they started with; restart the application to change bundles"


class FixedRepository(Repository):
    """Engines load their bundles when they start, so what the ingress loads they would not have."""

    async def load(self, name: str, version: int | None = None) -> None:  # noqa: ARG002
        """Raises Forbidden."""
        raise Forbidden(FIXED)

    async def unload(self, name: str, version: int | None = None) -> None:  # noqa: ARG002
        """Raises Forbidden."""
        raise Forbidden(FIXED)
