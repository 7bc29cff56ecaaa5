"""A module that is small, valid, and more than a compiler can do."""

from __future__ import annotations

F64, I32 = b"\x7c", b"\x7f"


def compile_bomb(locals: int, blocks: int) -> bytes:
    """Keep so many numbers alive over so many blocks, each of which changes one: every block needs a choice for every number."""
    body = _number(1) + _number(locals) + F64
    for block in range(blocks):
        one, other = (_number(1 + place % locals) for place in (block, block * 7 + 1))
        body += b"\x20\x00\x04\x40" + b"\x20" + one + b"\x20" + other + b"\xa0\x21" + one + b"\x0b"  # if: one += other
    body += b"\x20\x01\x0b"
    kind = b"\x60\x01" + I32 + b"\x01" + F64
    sections = ((1, b"\x01" + kind), (3, b"\x01\x00"), (10, b"\x01" + _number(len(body)) + body))
    return b"\0asm\x01\0\0\0" + b"".join(bytes([number]) + _number(len(content)) + content for number, content in sections)


def _number(value: int) -> bytes:
    """Write LEB128."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _number(rest) if rest else bytes([low])
