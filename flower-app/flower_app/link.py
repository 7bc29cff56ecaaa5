"""Whether an exception is the run's own, or comes of the way to the SuperLink: then this attempt is lost, and the run is not."""

FLOWERS, HTTPS = "flwr.supercore", "httpx"


def is_of_the_way(error: BaseException) -> bool:
    """Did Flower's client raise it: the run does not run any more, its token is void, the SuperLink answered with an error?"""
    module = type(error).__module__
    return module.startswith(FLOWERS) or module.partition(".")[0] == HTTPS
