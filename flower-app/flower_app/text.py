"""Text from strangers, made fit for a line of JSON and a database."""


def cleaned(text: object, limit: int) -> str:
    """Give text without NUL and half characters, which Postgres and JSON readers refuse; a long one loses its middle."""
    plain = str(text).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return plain if len(plain) <= limit else f"{plain[: limit // 2]}\n…\n{plain[-limit // 2 :]}"
