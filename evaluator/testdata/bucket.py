#!/usr/bin/env python3
"""Makes the frozen vectors of `murmur3-v1`, without any code of the crate: run it here, nothing may change.

`python3 bucket.py` writes the files, `python3 bucket.py --check` writes nothing and says whether they are the same.
murmur3_x86_32 is written down from its published description and checked against published values first.
"""
import json
import struct
import sys

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


def bucket(salt, value, total):
    return murmur3_x86_32((salt + value).encode()) * total >> 32


def vector(salt, value, total):
    return [salt, value, total, bucket(salt, value, total)]


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


def plain():
    salts = ["", "a", "ab", "abc", "abcd", "checkout.new-ui", "für", "日本語", "🚩"]
    values = ["a", "user-42", "0", "-9007199254740992", "Ünïcödé", "ключ", "用户", "👩‍👩‍👧", "\u0000", "\u007f", "x" * 255]
    totals = [1, 2, 3, 100, 10_000, 100_000, 2**31 - 1]
    return [vector(s, v, t) for s in salts for v in values for t in totals]


def random():
    return [vector(word(0, 12), word(1, 16), 1 + below(2 ** (1 + below(31)) - 1)) for _ in range(10_000)]


def texts():
    """Nothing is normalised, reordered or cut: what looks alike is not alike, and salt and value are one text."""
    salts = ["", "pepper", "layer=checkout", "é", "e\u0301", "\u05e9\u05dc\u05d5\u05dd"]
    values = [
        "é", "e\u0301", "ﬁ", "fi", "ß", "ss", "İ", "i\u0307", "Å", "\u212b",  # composed, decomposed, compatible
        "مرحبا", "\u05e9\u05dc\u05d5\u05dd", "a\u202eb", "\u200f1", "\u200d", "नमस्ते", "สวัสดี",  # right to left, marks
        "🚩", "👩🏽‍🚀", "🇩🇪", "\U0010ffff", "\ufeff", "\ufffd", "\t", "\n", " ", "é ",
        "0", "1", "-1", "10", "1000000", "9007199254740992", "-9007199254740992",  # whole numbers as text
        *("abcdefghi"[:n] for n in range(1, 10)), "é" * 1_000, "日" * 2_000, "x" * 4_096,
    ]
    totals = [1, 2, 3, 10_000, 100_000, 2**31 - 1]
    short = [vector(s, v, t) for s in salts for v in values[:-3] for t in totals]
    joined = [vector("abcdef"[:n], "abcdef"[n:], 100_000) for n in range(6)]
    return short + joined + [vector("s", v, t) for v in values[-3:] for t in totals]


def numbers():
    """[salt, number, total, bucket]; the bucket is null where a number cannot be bucketed."""
    numbers = [0, -0.0, 0.0, 1, 1.0, -1, -1.0, 7, 42, 1e3, 1000.0, 123456789, -123456789, 2**31, 2**32, -(2**32),
               1e15, 2**53 - 1, 2**53, -(2**53), 0.5, -0.5, 1e-9, 41.999999999999993, 2.0**53 + 2, -(2.0**53) - 2,
               1e16, 1e300, -1e300]

    def one(salt, number, total):
        usable = float(number).is_integer() and abs(number) <= 2**53
        return [salt, number, total, bucket(salt, str(int(number)), total) if usable else None]

    return [one(s, n, t) for s in ["checkout.new-ui", "größe"] for n in numbers for t in [1, 3, 10_000, 100_000, 2**31 - 1]]


def cut(total, borders):
    """The weights between these borders of a total; the same border twice makes a weight of 0."""
    borders = [0, *sorted(borders), total]
    return [after - before for before, after in zip(borders, borders[1:])]


def splits():
    """[salt, value, [[variant, weight], ...], bucket, place]: place is the number of the share that the subject is in.

    Most have borders on either side of the subject's bucket, so that it is the first or the last of its share; many
    have weights of 0, also just before and after, and variants that come more than once.
    """
    global state
    state = 4242
    totals = [1, 2, 3, 10, 1_000, 10_000, 100_000, 2**31 - 1]
    out = []
    for n in range(2_000):
        salt, value, total = word(1, 12), word(1, 16), totals[below(len(totals))]
        place = bucket(salt, value, total)
        around = [[place], [place + 1], [place, place + 1], [place, place], [place + 1] * 3, []][n % 6]
        borders = around + [below(total + 1) for _ in range(below(4))] + [0] * (below(6) == 0) + [total] * (below(6) == 0)
        weights = cut(total, borders)
        names = ["abcd"[below(1 + below(4))] for _ in weights]
        first = next(i for i in range(len(weights)) if sum(weights[: i + 1]) > place)
        out.append([salt, value, [list(share) for share in zip(names, weights)], place, first])
    return out


def layers():
    """[layer, value, slot]: a layer has 10,000 slots, and its own salt, `layer=` and its key."""
    global state
    state = 424242
    keys = ["checkout", "a", "Layer.1", "x:y/z-", "k" * 256]
    values = ["user-42", "1", "é", "👩🏽‍🚀", "9007199254740992"] + [word(1, 16) for _ in range(95)]
    return [[k, v, bucket("layer=" + k, v, 10_000)] for k in keys for v in values]


FILES = [("", plain), ("-random", random), ("-texts", texts), ("-numbers", numbers), ("-splits", splits), ("-layers", layers)]


def main():
    same = True
    for name, make in FILES:
        name = f"bucket-murmur3-v1{name}.jsonl"
        lines = "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in make()).encode()
        if "--check" in sys.argv:
            with open(name, "rb") as file:
                if file.read() != lines:
                    same = False
                    print(f"{name} would change")
        else:
            with open(name, "wb") as file:
                file.write(lines)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
