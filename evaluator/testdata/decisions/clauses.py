"""The themes of the catalogue that are about clauses. Each row is two decisions: plain and negated."""
from theme import Theme


def themes():
    return [missing(), equality(), texts(), patterns(), numbers(), versions(), times(), networks(), lists(), subject_key()]


def missing():
    t = Theme("missing", "A missing or null attribute never matches, negated or not; except for `exists`.")
    values = {"in": ["x"], "contains": ["x"], "starts_with": ["x"], "ends_with": ["x"], "matches": ["x"], "lt": [1],
              "lte": [1], "gt": [1], "gte": [1], "semver_eq": ["1"], "semver_lt": ["1"], "semver_lte": ["1"],
              "semver_gt": ["1"], "semver_gte": ["1"], "before": ["2024-01-01T00:00:00Z"],
              "after": ["2024-01-01T00:00:00Z"], "in_cidr": ["0.0.0.0/0", "::/0"]}
    for op, values in values.items():
        clause = t.clause(op, op, values)
        t.row(clause, "missing", "the attribute is not there")
        t.row(clause, "missing", "null is the same as not there", a=None)
        t.row(clause, "no match", "an empty list is there, and nothing in it matches", a=[])
        t.row(clause, "no match", "nulls in a list are dropped", a=[None, None])
        t.row(clause, "wrong type", "a boolean is of no use to this operator" if op != "in" else "true is no text", a=True)
    there = t.clause("exists", "exists")
    for value in ["", 0, False, [], [None], "x"]:
        t.row(there, "match", "anything but null is there, also what is empty or false", a=value)
    for value in [{}, {"a": None}, {"A": "x"}]:
        t.decide("exists", "off DEFAULT", "not there: missing, null, or of another name", **value)
        t.decide("exists/negated", "on RULE_MATCH r", "only `exists` can say of what is missing that it is", **value)
    return t


def equality():
    t = Theme("equality", "`in` is equality within one JSON type.")
    one = t.clause("one", "in", [1])
    t.row(one, "match", "the same number", a=1)
    t.row(one, "match", "1.0 is the number 1", a=1.0)
    t.row(one, "no match", "another number", a=1.0000000000000002)
    t.row(one, "no match", "true is not 1", a=True)
    t.row(one, "no match", "\"1\" is not 1", a="1")
    true = t.clause("true", "in", [True])
    t.row(true, "match", "the same boolean", a=True)
    t.row(true, "no match", "the other boolean", a=False)
    t.row(true, "no match", "1 is not true", a=1)
    t.row(true, "no match", "\"true\" is not true", a="true")
    false = t.clause("false", "in", [False])
    t.row(false, "match", "false is a value like any other", a=False)
    t.row(false, "no match", "0 is not false", a=0)
    t.row(false, "no match", "an empty text is not false", a="")
    text = t.clause("text", "in", ["1", ""])
    t.row(text, "match", "the same text", a="1")
    t.row(text, "match", "an empty text equals an empty text", a="")
    t.row(text, "no match", "1 is not \"1\"", a=1)
    t.row(text, "no match", "a space is not nothing", a=" ")
    zero = t.clause("zero", "in", [0])
    t.row(zero, "match", "minus zero is zero", a=-0.0)
    t.row(zero, "no match", "the least number above zero is not zero", a=5e-324)
    large = t.clause("large", "in", [9007199254740992])
    t.row(large, "match", "2^53 is exact", a=9007199254740992)
    t.row(large, "no match", "so is its neighbour", a=9007199254740991)
    t.row(large, "match", "numbers are f64: 2^53 + 1 is read as 2^53", a=9007199254740993)
    mixed = t.clause("mixed", "in", ["a", 2, True])
    for value in ["a", 2, True]:
        t.row(mixed, "match", "several values, of several types: any of them", a=value)
    t.row(mixed, "no match", "none of them", a="2")
    bytes_ = t.clause("bytes", "in", ["Straße", "é"])
    t.row(bytes_, "match", "texts compare by bytes", a="Straße")
    t.row(bytes_, "no match", "upper and lower case differ", a="straße")
    t.row(bytes_, "no match", "a composed letter is not a decomposed one", a="e\u0301")
    return t


def texts():
    t = Theme("texts", "`contains`, `starts_with`, `ends_with`: by bytes, case-sensitive.")
    contains = t.clause("contains", "contains", ["b.c", "ß"])
    t.row(contains, "match", "in the middle", a="ab.cd")
    t.row(contains, "match", "the whole text", a="b.c")
    t.row(contains, "match", "the second value", a="Straße")
    t.row(contains, "no match", "a point is a point, not any letter", a="abxcd")
    t.row(contains, "no match", "upper and lower case differ", a="aB.Cd")
    t.row(contains, "no match", "ß is not ss", a="Strasse")
    t.row(contains, "wrong type", "a number has no text", a=1)
    starts = t.clause("starts", "starts_with", ["ab"])
    t.row(starts, "match", "the beginning", a="abc")
    t.row(starts, "match", "all of it", a="ab")
    t.row(starts, "no match", "not at the beginning", a="cab")
    t.row(starts, "no match", "shorter than the value", a="a")
    t.row(starts, "wrong type", "false is no text", a=False)
    ends = t.clause("ends", "ends_with", ["@example.com", ".de"])
    t.row(ends, "match", "the end", a="ada@example.com")
    t.row(ends, "match", "the end, by the second value", a="ada@x.de")
    t.row(ends, "no match", "not at the end", a="ada@example.com.au")
    t.row(ends, "no match", "a final newline is part of the text", a="ada@example.com\n")
    t.row(ends, "wrong type", "1.5 is no text", a=1.5)
    for op in ["contains", "starts_with", "ends_with"]:
        empty = t.clause("empty-" + op, op, [""])
        t.row(empty, "match", "nothing is part of every text", a="x")
        t.row(empty, "match", "also of an empty one", a="")
        t.row(empty, "wrong type", "but a number is no text", a=0)
    return t


def patterns():
    t = Theme("patterns", "`matches`: the pattern is searched for; anchors say where it must be.")
    inner = t.clause("inner", "matches", ["b+c"])
    t.row(inner, "match", "found in the middle", a="abbcd")
    t.row(inner, "no match", "not found", a="acb")
    t.row(inner, "no match", "upper and lower case differ", a="ABBC")
    t.row(inner, "wrong type", "a number has no text", a=7)
    whole = t.clause("whole", "matches", ["^u[0-9]{2}$"])
    t.row(whole, "match", "from the beginning to the end", a="u42")
    t.row(whole, "no match", "more after it", a="u423")
    t.row(whole, "no match", "more before it", a="xu42")
    t.row(whole, "no match", "a last line feed is more after it", a="u42\n")
    t.row(whole, "no match", "an empty text has no u", a="")
    several = t.clause("several", "matches", ["^a", "z$"])
    t.row(several, "match", "the first pattern", a="ab")
    t.row(several, "match", "the second pattern", a="bz")
    t.row(several, "no match", "neither", a="za")
    anything = t.clause("anything", "matches", [""])
    t.row(anything, "match", "an empty pattern is found in every text", a="")
    t.row(anything, "wrong type", "true is no text", a=True)
    loose = t.clause("loose", "matches", ["(?i)^straße$"])
    t.row(loose, "match", "regardless of case", a="STRAßE")
    t.row(loose, "no match", "ß is one letter, ss are two", a="STRASSE")
    dot = t.clause("dot", "matches", ["^.$"])
    t.row(dot, "match", "a letter of two bytes is one letter", a="é")
    t.row(dot, "match", "a letter of four bytes is one letter", a="🚩")
    t.row(dot, "no match", "a letter and its mark are two", a="e\u0301")
    t.row(dot, "no match", "a point is not a line break", a="\n")
    digits = t.clause("digits", "matches", ["^\\d+$"])
    t.row(digits, "match", "digits", a="0123")
    t.row(digits, "match", "classes are those of Unicode: Arabic digits", a="٣٤")
    t.row(digits, "no match", "a sign is no digit", a="-1")
    ascii_ = t.clause("ascii-digits", "matches", ["^[0-9]+$"])
    t.row(ascii_, "no match", "a range is what it says", a="٣٤")
    part = t.clause("either", "matches", ["^(alpha|beta)-[a-f]{1,3}$"])
    t.row(part, "match", "one of two words, then up to three letters", a="beta-abc")
    t.row(part, "no match", "too many letters", a="beta-abcd")
    lines = t.clause("lines", "matches", ["(?m)^b$"])
    t.row(lines, "match", "with m, anchors are those of lines", a="a\nb\nc")
    t.row(lines, "no match", "but not those of words", a="a b c")
    either = t.clause("line-or-end", "matches", ["(?m:^b)|c$"])
    t.row(either, "match", "m counts where it stands", a="a\nb")
    t.row(either, "no match", "and nowhere else: the end is not before a line feed", a="c\n")
    words = t.clause("words", "matches", ["(?-u:\\bcat\\b)"])
    t.row(words, "match", "a word between others", a="a cat, here")
    t.row(words, "match", "what is not ASCII is no part of an ASCII word", a="écaté")
    t.row(words, "no match", "the beginning of a longer word", a="cats")
    t.row(words, "no match", "the end of a longer word", a="bobcat")
    point = t.clause("point", "matches", ["^a\\.b$"])
    t.row(point, "match", "an escaped point", a="a.b")
    t.row(point, "no match", "is a point only", a="axb")
    return t


def numbers():
    t = Theme("numbers", "`lt`, `lte`, `gt`, `gte`: numbers only.")
    for op, below, equal, above in [("lt", 1, 0, 0), ("lte", 1, 1, 0), ("gt", 0, 0, 1), ("gte", 0, 1, 1)]:
        clause = t.clause(op, op, [2.5])
        word = ["no match", "match"]
        t.row(clause, word[below], "2.4 against 2.5", a=2.4)
        t.row(clause, word[equal], "2.5 against 2.5", a=2.5)
        t.row(clause, word[above], "3 against 2.5", a=3)
        t.row(clause, word[below], "-1e300 against 2.5", a=-1e300)
        t.row(clause, "wrong type", "a text is no number, even if it looks like one", a="2.5")
        t.row(clause, "wrong type", "an empty text is no number", a="")
        t.row(clause, "wrong type", "true is no number", a=True)
    several = t.clause("several", "gt", [10, 2])
    t.row(several, "match", "several values: any of them, so the least counts", a=3)
    t.row(several, "no match", "not above any of them", a=2)
    zero = t.clause("below-zero", "lt", [0])
    t.row(zero, "no match", "minus zero is not below zero", a=-0.0)
    t.row(zero, "match", "the greatest number below zero is", a=-5e-324)
    large = t.clause("large", "lt", [9007199254740992])
    t.row(large, "match", "2^53 - 1 is below 2^53", a=9007199254740991)
    t.row(large, "no match", "numbers are f64: 2^53 + 1 is read as 2^53", a=9007199254740993)
    return t


def versions():
    t = Theme("versions", "`semver_*`: the order of semver.org; partial versions are padded, build metadata is ignored.")
    clauses = {op: t.clause(op, "semver_" + op, ["2.3.0"]) for op in ["eq", "lt", "lte", "gt", "gte"]}
    orders = [("2.2.9", -1, "an earlier patch of an earlier minor"), ("2.3.0-rc.1", -1, "a pre-release is before its release"),
              ("2.3.0", 0, "the same"), ("2.3", 0, "2.3 is 2.3.0"), ("v2.3.0", 0, "one leading v is ignored"),
              ("V2.3", 0, "one leading V too"), ("2.3.0+build.5", 0, "build metadata is ignored"),
              ("2.3.1-0", 1, "a pre-release of the next is after"), ("2.10", 1, "numbers compare as numbers: 10 is after 3"),
              ("3", 1, "3 is 3.0.0"), ("2", -1, "2 is 2.0.0")]
    for text, order, why in orders:
        for op, clause in clauses.items():
            holds = {"eq": order == 0, "lt": order < 0, "lte": order <= 0, "gt": order > 0, "gte": order >= 0}[op]
            t.row(clause, "match" if holds else "no match", why, a=text)
    wrong = [("", "an empty text"), ("2.3.0.0", "four numbers"), ("02.3", "a leading zero"), ("2.3.0-01", "a leading zero"),
             ("2.3.", "nothing after the point"), ("2.3.0-", "an empty pre-release"), ("2.3.0-a..b", "an empty identifier"),
             (" 2.3.0", "a space"), ("vv2.3", "two v"), ("2.x", "a letter"), ("18446744073709551616", "a number from 2^64"),
             ("2.3.0+", "empty build metadata"), (2.3, "a number is no version"), (2, "a number is no version"),
             (True, "a boolean is no version")]
    for value, why in wrong:
        t.row(clauses["gte"], "wrong type", why, a=value)
    t.row(clauses["eq"], "wrong type", "no version equals no version", a="2.3.0.0")
    pre = t.clause("pre-releases", "semver_lt", ["1.0.0-beta.11"])
    for text in ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0-beta.2", "1-beta.2"]:
        t.row(pre, "match", "identifiers compare one by one, numbers as numbers", a=text)
    for text in ["1.0.0-beta.11", "1.0.0-beta.11+x", "1.0.0-beta.a", "1.0.0-beta.11.0", "1.0.0-rc.1", "1.0.0"]:
        t.row(pre, "no match", "words are after numbers, longer lists after shorter ones", a=text)
    wide = t.clause("wide", "semver_gt", ["1.0.0-99999999999999999999"])
    t.row(wide, "match", "numbers of any length in a pre-release", a="1.0.0-100000000000000000000")
    t.row(wide, "match", "a hyphen is a word, so after numbers", a="1.0.0--")
    several = t.clause("several", "semver_eq", ["1", "2.5"])
    t.row(several, "match", "several values: any of them", a="2.5.0")
    t.row(several, "no match", "none of them", a="1.0.1")
    return t


def times():
    t = Theme("times", "`before`, `after`: RFC 3339 text or milliseconds since 1970, strictly before or after.")
    noon = "2024-02-29T12:00:00Z"
    before, after = t.clause("before", "before", [noon]), t.clause("after", "after", [noon])
    equal = [(noon, "the same text"), ("2024-02-29T13:30:00+01:30", "another offset"),
             ("2024-02-29T06:30:00-05:30", "an offset to the west"), ("2024-02-29t12:00:00z", "small letters"),
             ("2024-02-29 12:00:00Z", "a space between"), ("2024-02-29T12:00:00.000Z", "a fraction of nothing"),
             ("2024-02-29T12:00:00-00:00", "an offset of nothing"), (1709208000000, "milliseconds"),
             ("2024-02-29T12:00:00.0000000009Z", "what is below a nanosecond is cut off"),
             (1709208000000.9, "a fraction of a millisecond is cut off"),
             ("2024-02-28T12:01:00-23:59", "the day before, far to the west"),
             ("2024-03-01T11:59:00+23:59", "the day after, far to the east")]
    for value, why in equal:
        t.row(before, "no match", "not before the same instant: " + why, a=value)
        t.row(after, "no match", "not after the same instant: " + why, a=value)
    earlier = [("2024-02-29T11:59:59.999999999Z", "a nanosecond before"), (1709207999999, "a millisecond before"),
               (1709207999999.5, "a fraction is cut off, so a millisecond before"), (0, "1970"), (-1, "1969"),
               ("2024-02-29T13:00:00+01:01", "a minute before, in another offset"), ("0000-01-01T00:00:00Z", "year 0"),
               ("0000-01-01T00:00:00+23:59", "before year 0"), (-9007199254740992, "the first millisecond"),
               ("2024-02-29T12:00:00+00:01", "an offset of a minute")]
    later = [("2024-02-29T12:00:00.000000001Z", "a nanosecond after"), (1709208000001, "a millisecond after"),
             ("2024-02-29T12:00:00.5Z", "half a second after"), ("2024-02-29T11:59:59-00:01", "59 seconds after"),
             ("9999-12-31T23:59:59Z", "year 9999"), ("9999-12-31T23:59:59-23:59", "after year 9999"),
             (9007199254740992, "the last millisecond")]
    for value, why in earlier:
        t.row(before, "match", why, a=value)
        t.row(after, "no match", why, a=value)
    for value, why in later:
        t.row(after, "match", why, a=value)
        t.row(before, "no match", why, a=value)
    wrong = [("", "an empty text"), ("2024-02-29", "no time of day"), ("2024-02-29T12:00:00", "no offset"),
             ("2024-02-29T12:00Z", "no seconds"), ("2023-02-29T12:00:00Z", "no such day"), ("2024-13-01T12:00:00Z", "month 13"),
             ("2024-00-10T12:00:00Z", "month 0"), ("2024-04-31T12:00:00Z", "no such day"), ("2024-02-29T24:00:00Z", "hour 24"),
             ("2024-02-29T12:60:00Z", "minute 60"), ("2024-02-29T12:00:61Z", "second 61"),
             ("2024-02-29T12:00:00.Z", "no digit after the point"), ("2024-02-29T12:00:00,5Z", "a comma"),
             ("2024-02-29T12:00:00+24:00", "an offset of 24 hours"), ("2024-02-29T12:00:00+01:60", "an offset of 60 minutes"),
             ("2024-02-29T12:00:00+0100", "an offset without colon"), ("2024-02-29T12:00:00+01", "an offset without minutes"),
             ("+2024-02-29T12:00:00Z", "a sign before the year"), ("12024-02-29T12:00:00Z", "five digits of a year"),
             ("2024-02-29T12:00:00Z[UTC]", "a time zone"), (" 2024-02-29T12:00:00Z", "a space before"),
             ("2024-02-29T12:00:00Z\n", "a line break after"), ("1709208000000", "milliseconds as text"),
             ("2024-2-29T12:00:00Z", "one digit of a month"), ("2024-02-29T12:00:00 Z", "a space before the offset"),
             (9007199254740994, "more than 2^53 milliseconds"), (-1e300, "far more than that"), (True, "a boolean")]
    for value, why in wrong:
        t.row(before, "wrong type", why, a=value)
    t.row(after, "wrong type", "no time is not after either", a="2024-02-29")
    leap = t.clause("leap-second", "before", ["2016-12-31T23:59:60Z"])
    t.row(leap, "no match", "second 60 is read as 59", a="2016-12-31T23:59:59Z")
    t.row(leap, "match", "so the second before is 58", a="2016-12-31T23:59:58.999Z")
    half = t.clause("leap-half", "after", ["2016-12-31T23:59:59.4Z"])
    t.row(half, "match", "second 60.5 is read as 59.5", a="2016-12-31T23:59:60.5Z")
    t.row(half, "no match", "second 60.4 as 59.4", a="2016-12-31T23:59:60.4Z")
    epoch = t.clause("epoch", "before", [0])
    t.row(epoch, "match", "a fraction is rounded down: -0.5 is -1", a=-0.5)
    t.row(epoch, "no match", "0.5 is 0", a=0.5)
    t.row(epoch, "match", "text against milliseconds", a="1969-12-31T23:59:59.999999999Z")
    t.row(epoch, "no match", "text against milliseconds", a="1970-01-01T00:00:00Z")
    several = t.clause("several", "after", ["2024-01-01T00:00:00Z", 0])
    t.row(several, "match", "several values: any of them, so the earliest counts", a=1)
    t.row(several, "no match", "not after any of them", a=0)
    return t


def networks():
    t = Theme("networks", "`in_cidr`: addresses in networks; mapped IPv6 counts as IPv4.")
    ten = t.clause("ten", "in_cidr", ["10.1.2.3/8"])
    t.row(ten, "match", "host bits of a network are masked off", a="10.99.0.1")
    t.row(ten, "match", "its first address", a="10.0.0.0")
    t.row(ten, "match", "its last address", a="10.255.255.255")
    t.row(ten, "no match", "one after", a="11.0.0.0")
    t.row(ten, "no match", "one before", a="9.255.255.255")
    t.row(ten, "match", "a mapped address counts as IPv4", a="::ffff:10.1.2.3")
    t.row(ten, "match", "however it is written", a="0:0:0:0:0:FFFF:0A01:0203")
    t.row(ten, "no match", "::10.1.2.3 is not a mapped one", a="::10.1.2.3")
    t.row(ten, "no match", "another IPv6 address", a="2001:db8::1")
    wrong = [("", "an empty text"), ("10.1.2", "three numbers"), ("10.1.2.256", "256"), ("10.1.2.03", "a leading zero"),
             ("10.1.2.3:80", "a port"), ("10.1.2.3/32", "a prefix"), (" 10.1.2.3", "a space"), ("localhost", "a name"),
             ("[::1]", "brackets"), ("fe80::1%eth0", "a zone"), ("::1::", "two gaps"), ("1:2:3:4:5:6:7:8:9", "nine groups"),
             ("::12345", "five digits"), ("0x0a010203", "hexadecimal"), (167838211, "a number"), (True, "a boolean")]
    for value, why in wrong:
        t.row(ten, "wrong type", why + " is no address", a=value)
    bare = t.clause("bare", "in_cidr", ["192.0.2.7", "2001:db8::7"])
    t.row(bare, "match", "a bare address is a network of one", a="192.0.2.7")
    t.row(bare, "match", "of IPv6 too", a="2001:0DB8:0:0::7")
    t.row(bare, "no match", "its neighbour is not in it", a="192.0.2.6")
    t.row(bare, "no match", "nor is that of IPv6", a="2001:db8::6")
    borders = t.clause("borders", "in_cidr", ["192.0.2.128/25", "198.51.100.6/31"])
    t.row(borders, "match", "the first half is without, the second within", a="192.0.2.128")
    t.row(borders, "no match", "the first half is without", a="192.0.2.127")
    t.row(borders, "match", "two addresses", a="198.51.100.7")
    t.row(borders, "no match", "not three", a="198.51.100.8")
    all4 = t.clause("all-v4", "in_cidr", ["0.0.0.0/0"])
    t.row(all4, "match", "every IPv4 address", a="255.255.255.255")
    t.row(all4, "match", "mapped ones too", a="::ffff:0.0.0.0")
    t.row(all4, "no match", "no IPv6 address", a="::1")
    all6 = t.clause("all-v6", "in_cidr", ["::/0"])
    t.row(all6, "match", "every IPv6 address", a="ffff::1")
    t.row(all6, "no match", "no IPv4 address", a="10.1.2.3")
    t.row(all6, "no match", "nor a mapped one, which counts as IPv4", a="::ffff:10.1.2.3")
    six = t.clause("v6", "in_cidr", ["2001:db8:8000::/33"])
    t.row(six, "match", "its first address", a="2001:db8:8000::")
    t.row(six, "match", "its last address", a="2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")
    t.row(six, "no match", "the half before", a="2001:db8:7fff:ffff:ffff:ffff:ffff:ffff")
    mapped = t.clause("mapped", "in_cidr", ["::ffff:10.1.0.0/112"])
    t.row(mapped, "match", "a mapped network counts as IPv4: 10.1.0.0/16", a="10.1.255.255")
    t.row(mapped, "match", "and holds mapped addresses", a="::ffff:10.1.0.9")
    t.row(mapped, "no match", "outside", a="10.2.0.0")
    all_mapped = t.clause("all-mapped", "in_cidr", ["::ffff:0:0/96"])
    t.row(all_mapped, "match", "all mapped addresses are all of IPv4", a="203.0.113.9")
    shorter = t.clause("shorter", "in_cidr", ["::ffff:0:0/95"])
    t.row(shorter, "no match", "a network that is wider than the mapped one is IPv6", a="203.0.113.9")
    t.row(shorter, "match", "and holds what is IPv6 in it", a="::fffe:1:2")
    return t


def lists():
    t = Theme("lists", "An attribute that is a list: any element. Negated: no element.")
    one = t.clause("in", "in", ["DE", 7])
    t.row(one, "match", "any element", a=["FR", "DE"])
    t.row(one, "match", "elements of any type", a=["FR", 7])
    t.row(one, "no match", "no element", a=["FR", "IT"])
    t.row(one, "no match", "an empty list is there and matches nothing", a=[])
    t.row(one, "match", "nulls are dropped", a=[None, "DE"])
    t.row(one, "no match", "only nulls are nothing, but there", a=[None])
    t.row(one, "no match", "equality within one type holds for elements too", a=["7", True])
    less = t.clause("lt", "lt", [5])
    t.row(less, "match", "elements that are of no use do not matter if another matches", a=["x", True, 4])
    t.row(less, "wrong type", "elements of no use only", a=["4", False])
    t.row(less, "no match", "none is less", a=[5, 6, "4"])
    semver = t.clause("semver", "semver_gte", ["2"])
    t.row(semver, "match", "one version will do", a=["1.9", "no version", "2.0.0"])
    t.row(semver, "no match", "none will", a=["1.9", "no version"])
    cidr = t.clause("cidr", "in_cidr", ["10.0.0.0/8"])
    t.row(cidr, "match", "one address will do", a=["192.0.2.1", "10.0.0.1"])
    t.row(cidr, "wrong type", "no address at all", a=["10.0.0.0/8", 10])
    time = t.clause("before", "before", [0])
    t.row(time, "match", "one time will do", a=["1970-01-01T00:00:00Z", -1])
    part = t.clause("contains", "contains", ["x"])
    t.row(part, "match", "part of an element; the list itself is not searched", a=["ax", "b"])
    t.row(part, "no match", "no element has it", a=["a", "b"])
    pattern = t.clause("matches", "matches", ["^b$"])
    t.row(pattern, "match", "one element", a=["a", "b"])
    t.row(pattern, "no match", "elements are not joined", a=["ab", "bc"])
    return t


def subject_key():
    t = Theme("subject-key", "`subject_key` can be used as the name of an attribute; it is always there.")
    key = t.clause("in", "in", ["user-42"], attribute="subject_key")
    t.row(key, "match", "the key of the subject")
    t.row(key, "no match", "another key", key="user-43")
    start = t.clause("starts", "starts_with", ["user-"], attribute="subject_key")
    t.row(start, "match", "its beginning")
    less = t.clause("lt", "lt", [100], attribute="subject_key")
    t.row(less, "wrong type", "it is text, even if it looks like a number", key="42")
    there = t.clause("exists", "exists", attribute="subject_key")
    t.row(there, "match", "it is there")
    version = t.clause("semver", "semver_gt", ["1"], attribute="subject_key")
    t.row(version, "match", "it can be a version", key="1.2.3")
    address = t.clause("cidr", "in_cidr", ["10.0.0.0/8"], attribute="subject_key")
    t.row(address, "match", "or an address", key="10.9.8.7")
    return t
