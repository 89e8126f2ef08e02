#!/usr/bin/env python3
"""Makes the frozen vectors of `murmur3-v1`, without any code of the crate: run it here, nothing may change.

murmur3_x86_32 is written down from its published description and checked against published values first.
"""
import json
import struct

MASK = 0xFFFFFFFF


def murmur3_x86_32(data, seed=0):
    def rotl(x, n):
        return ((x << n) | (x >> (32 - n))) & MASK

    h = seed
    whole = len(data) // 4 * 4
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = rotl(k * 0xCC9E2D51 & MASK, 15) * 0x1B873593 & MASK
        h = (rotl(h ^ k, 13) * 5 + 0xE6546B64) & MASK
    if len(data) > whole:
        k = int.from_bytes(data[whole:], "little")
        h ^= rotl(k * 0xCC9E2D51 & MASK, 15) * 0x1B873593 & MASK
    h ^= len(data) & MASK
    h = (h ^ h >> 16) * 0x85EBCA6B & MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & MASK
    return h ^ h >> 16


PUBLISHED = [
    (b"", 0, 0), (b"", 1, 0x514E28B7), (b"", MASK, 0x81F16F39), (b"\xff\xff\xff\xff", 0, 0x76293B50),
    (b"\x21\x43\x65\x87", 0, 0xF55B516B), (b"\x21\x43\x65\x87", 0x5082EDEE, 0x2362F9DE),
    (b"\x21\x43\x65", 0, 0x7E4A8634), (b"\x21\x43", 0, 0xA0F7B07A), (b"\x21", 0, 0x72661CF4),
    (b"\0\0\0\0", 0, 0x2362F9DE), (b"\0\0\0", 0, 0x85F0B427), (b"\0\0", 0, 0x30F4C306), (b"\0", 0, 0x514E28B7),
    (b"test", 0, 0xBA6BD213), (b"test", 0x9747B28C, 0x704B81DC), (b"Hello, world!", 0, 0xC0363E43),
    (b"Hello, world!", 0x9747B28C, 0x24884CBA), (b"The quick brown fox jumps over the lazy dog", 0, 0x2E4FF723),
    (b"The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
]
for text, seed, wanted in PUBLISHED:
    assert murmur3_x86_32(text, seed) == wanted, (text, seed)


def vector(salt, value, total):
    return [salt, value, total, murmur3_x86_32((salt + value).encode()) * total >> 32]


def write(name, vectors):
    with open(name, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(v, ensure_ascii=False) + "\n" for v in vectors)


SALTS = ["", "a", "ab", "abc", "abcd", "checkout.new-ui", "für", "日本語", "🚩"]
VALUES = ["a", "user-42", "0", "-9007199254740992", "Ünïcödé", "ключ", "用户", "👩‍👩‍👧", "\u0000", "\u007f", "x" * 255]
TOTALS = [1, 2, 3, 100, 10_000, 100_000, 2**31 - 1]
write("bucket-murmur3-v1.jsonl", [vector(s, v, t) for s in SALTS for v in VALUES for t in TOTALS])

state = 42


def below(n):
    """xorshift64*: the same numbers in every Python."""
    global state
    state ^= state >> 12
    state = (state ^ state << 25) & (2**64 - 1)
    state ^= state >> 27
    return (state * 0x2545F4914F6CDD1D & (2**64 - 1)) % n


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:/@ äöüßéñøπжя中文字🚩😀"


def word(shortest, longest):
    return "".join(LETTERS[below(len(LETTERS))] for _ in range(shortest + below(longest - shortest + 1)))


write("bucket-murmur3-v1-random.jsonl",
      [vector(word(0, 12), word(1, 16), 1 + below(2 ** (1 + below(31)) - 1)) for _ in range(10_000)])
