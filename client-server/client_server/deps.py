"""What routes ask for."""

from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from client_server.site import Site

ROLE = "site"
"""Of the one token of this API: it stands for the people of this site."""


def site_of(request: Request) -> Site:
    """Give the site that the lifespan opened."""
    return cast(Site, request.state.site)


SiteDep = Annotated[Site, Depends(site_of)]
