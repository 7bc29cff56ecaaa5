"""Text from strangers, made fit for a line of JSON, a database and a terminal."""


def cleaned(text: object, limit: int) -> str:
    """Give text without NUL and half characters, which Postgres and JSON readers refuse; a long one loses its middle."""
    plain = str(text).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return plain if len(plain) <= limit else f"{plain[: limit // 2]}\n…\n{plain[-limit // 2 :]}"


def one_line(text: object, limit: int) -> str:
    """Give text that has a place within a sentence: a long one loses its middle, a line's end is " | ", blanks are one space.

    What a terminal acts upon or does not show, such as escape sequences and turns of the direction, is escaped as repr does.
    """
    lines = (" ".join(line.split()) for line in cleaned(text, limit).splitlines())
    shown = " | ".join(filter(None, lines)).replace(" | … | ", " … ")
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in shown)
