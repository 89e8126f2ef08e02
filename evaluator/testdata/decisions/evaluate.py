"""An evaluator of its own, straight from the specification, on the JSON that people write. Only the standard library.

It decides what the catalogue expects (`make.py`) and shares nothing with the crate. Patterns are read by `re`, whose
grammar is another one in its corners, so the catalogue keeps to what means the same in both.
"""
import datetime
import ipaddress
import math
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from bucket import murmur3_x86_32  # noqa: E402

EXACT_MAX = 2**53
DEPTH_MAX = 20


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Versions.

IDENTIFIER = r"[0-9A-Za-z-]+"
NUMBER = r"(?:0|[1-9][0-9]*)"
PRE = rf"(?:{NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
VERSION = re.compile(
    rf"[vV]?({NUMBER})(?:\.({NUMBER}))?(?:\.({NUMBER}))?(?:-({PRE}(?:\.{PRE})*))?(?:\+{IDENTIFIER}(?:\.{IDENTIFIER})*)?")


def version(text):
    """Something that compares as the version does, or nothing."""
    found = VERSION.fullmatch(text)
    if not found:
        return None
    numbers = [int(part or 0) for part in found.group(1, 2, 3)]
    if max(numbers) >= 2**64:
        return None
    if found.group(4) is None:
        return numbers, 1, []
    ids = found.group(4).split(".")
    return numbers, 0, [(0, int(one), "") if one.isdecimal() else (1, 0, one) for one in ids]


# Times.

TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def instant(value):
    """Nanoseconds since 1970, or nothing."""
    if is_number(value):
        return math.floor(float(value)) * 1_000_000 if abs(float(value)) <= EXACT_MAX else None
    found = TIME.fullmatch(value) if isinstance(value, str) else None
    if not found:
        return None
    year, month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5, 6))
    ahead_hours, ahead_minutes = int(found.group(9) or 0), int(found.group(10) or 0)
    if hour > 23 or minute > 59 or second > 60 or ahead_hours > 23 or ahead_minutes > 59:
        return None
    try:
        # Python has no year 0; the calendar repeats every 400 years, which are 146,097 days.
        days = datetime.date(year or 400, month, day).toordinal() - datetime.date(1970, 1, 1).toordinal()
        days -= 0 if year else 146_097
    except ValueError:
        return None
    ahead = (ahead_hours * 60 + ahead_minutes) * 60 * (-1 if found.group(8) == "-" else 1)
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + min(second, 59) - ahead
    return seconds * 1_000_000_000 + int((found.group(7) or "0")[:9].ljust(9, "0"))


# Addresses.

MAPPED = ipaddress.ip_network("::ffff:0:0/96")


def address(value):
    """Width and bits, or nothing."""
    if not isinstance(value, str) or "%" in value or "/" in value:
        return None
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return None
    if found.version == 6 and found.ipv4_mapped:
        found = found.ipv4_mapped
    return found.max_prefixlen, int(found)


def in_network(found, text):
    network = ipaddress.ip_network(text, strict=False)
    width, start, length = network.max_prefixlen, int(network.network_address), network.prefixlen
    if network.version == 6 and network.subnet_of(MAPPED):
        width, start, length = 32, start & 0xFFFF_FFFF, length - 96
    return found[0] == width and found[1] >> (width - length) == start >> (width - length)


class Evaluator:
    """Decides flags of one environment. `flags` and `segments` are as in the catalogue."""

    def __init__(self, flags, segments):
        self.flags, self.segments = flags, segments

    def evaluate(self, flag, subject):
        """Returns the answer, and whether an exposure is due."""
        found = Decider(self, subject["key"], subject.get("attributes", {})).flag(flag)
        answer = {"flag": flag, "enabled": False, "variant": None, "value": None,
                  "config_version": self.config_version(flag), "reason": found["reason"]}
        if found["reason"] != "FLAG_NOT_FOUND":
            config = self.flags[flag]["config"]
            answer["enabled"] = self.flags[flag]["policy"]["enabled"]
            answer["variant"] = found["variant"]
            answer["value"] = config["variants"][found["variant"]]
        answer.update({name: found[name] for name in ["rule_id", "bucket", "detail", "experiment"] if name in found})
        due = found["reason"] != "FLAG_NOT_FOUND" and found.get("detail") != "BUCKETING_KEY_MISSING"
        tracked = due and self.flags[flag]["config"].get("track", False)
        return answer, bool(due and ("experiment" in found or tracked))

    def uses(self, kind, key):
        place = (self.flags if kind == "flag" else self.segments).get(key)
        policy = place["policy"] if place else {}
        for prerequisite in policy.get("prerequisites", []):
            yield "flag", prerequisite["flag"]
        for rule in policy.get("rules", []):
            for clause in rule["when"]:
                if clause["op"] == "in_segment":
                    yield from (("segment", name) for name in clause["values"])
            holdout = rule.get("serve", {}).get("rollout", {}).get("experiment", {}).get("holdout")
            if holdout is not None:
                yield "segment", holdout

    def config_version(self, flag):
        reached, waiting = set(), [("flag", flag)]
        while waiting:
            one = waiting.pop()
            if one not in reached:
                reached.add(one)
                waiting.extend(self.uses(*one))
        places = [(self.flags if kind == "flag" else self.segments).get(key) for kind, key in reached]
        return max(place["changed_at"] if place else 0 for place in places)


class Decider:
    """One flag for one subject."""

    def __init__(self, world, key, attributes):
        self.world, self.key, self.attributes = world, key, attributes

    def attribute(self, name):
        """A missing one and null are both None."""
        return self.key if name == "subject_key" else self.attributes.get(name)

    def flag(self, flag):
        # 1. archived or unknown flag
        if flag not in self.world.flags:
            return {"reason": "FLAG_NOT_FOUND"}
        config, policy = self.world.flags[flag]["config"], self.world.flags[flag]["policy"]
        if config.get("archived", False):
            return {"reason": "FLAG_NOT_FOUND", "detail": "ARCHIVED"}
        # 2. enabled: false
        off = {"variant": config["off_variant"]}
        if not policy["enabled"]:
            return {**off, "reason": "DISABLED"}
        # 3. prerequisites
        for prerequisite in policy.get("prerequisites", []):
            other = self.flag(prerequisite["flag"])
            unusable = other["reason"] in ("FLAG_NOT_FOUND", "DISABLED")
            if unusable or other["variant"] not in prerequisite["variants"]:
                return {**off, "reason": "PREREQUISITE_FAILED"}
        # 4. individual target
        for target in policy.get("targets", []):
            if self.key in target["subjects"]:
                return {"variant": target["variant"], "reason": "TARGET_MATCH"}
        # 5. the first rule whose clauses all hold
        for place, rule in enumerate(policy.get("rules", []), 1):
            serve = rule["serve"]
            if self.all_hold(rule["when"]) and self.takes_part(serve.get("rollout", {})):
                return {**self.serve(flag, serve, "RULE_MATCH"), "rule_id": rule.get("id", f"rule-{place}")}
        # 6. default
        plain = not policy.get("rules") and not policy.get("targets")
        return self.serve(flag, policy["default"], "STATIC" if plain else "DEFAULT")

    def takes_part(self, rollout):
        experiment = rollout.get("experiment", {})
        if "holdout" in experiment and self.within(experiment["holdout"]):
            return False
        if "layer" not in experiment:
            return True
        start, end = experiment["layer"]["range"]
        slot = self.bucket(rollout, "layer=" + experiment["layer"]["key"], 10_000)
        return slot is not None and start <= slot < end

    def serve(self, flag, serve, reason):
        if "variant" in serve:
            return {"variant": serve["variant"], "reason": reason}
        rollout = serve["rollout"]
        found = {"reason": "SPLIT"}
        if "experiment" in rollout:
            found["experiment"] = rollout["experiment"]["key"]
        weights = rollout["weights"]
        salt = rollout.get("salt", self.world.flags[flag]["config"].get("salt", flag))
        place = self.bucket(rollout, salt, sum(one["weight"] for one in weights))
        if place is None:
            return {**found, "variant": weights[-1]["variant"], "detail": "BUCKETING_KEY_MISSING"}
        end = 0
        for one in weights:
            end += one["weight"]
            if end > place:
                return {**found, "variant": one["variant"], "bucket": place}
        raise AssertionError("a bucket is below the total")

    def bucket(self, rollout, salt, total):
        value = self.attribute(rollout.get("bucket_by", "subject_key"))
        if is_number(value):
            whole = float(value).is_integer() and abs(float(value)) <= EXACT_MAX
            value = str(int(value)) if whole else None
        if not isinstance(value, str) or value == "":
            return None
        return murmur3_x86_32((salt + value).encode()) * total >> 32

    def all_hold(self, when):
        return all(self.holds(clause) for clause in when)

    def holds(self, clause):
        op, values, negate = clause["op"], clause.get("values", []), clause.get("negate", False)
        if op == "in_segment":
            return any(self.within(name) for name in values) != negate
        value = self.attribute(clause["attribute"])
        if op == "exists":
            return (value is not None) != negate
        if value is None:
            return False
        elements = [one for one in value if one is not None] if isinstance(value, list) else [value]
        return any(passes(op, element, wanted) for element in elements for wanted in values) != negate

    def within(self, segment):
        policy = self.world.segments[segment]["policy"]
        if self.key in policy.get("excluded", []):
            return False
        if self.key in policy.get("included", []):
            return True
        return any(self.all_hold(rule["when"]) and self.in_share(segment, rule) for rule in policy.get("rules", []))

    def in_share(self, segment, rule):
        if "rollout" not in rule:
            return True
        share = rule["rollout"]
        place = self.bucket(share, share.get("salt", segment), share["of"])
        return place is not None and place < share["share"]


def passes(op, value, wanted):
    """One value against one wanted; what the operator cannot use does not pass."""
    if op == "in":
        if is_number(value) and is_number(wanted):
            return float(value) == float(wanted)
        return type(value) is type(wanted) and value == wanted
    if op in ("lt", "lte", "gt", "gte"):
        return is_number(value) and compares(op, float(value), float(wanted))
    if op in ("before", "after"):
        found = instant(value)
        return found is not None and compares({"before": "lt", "after": "gt"}[op], found, instant(wanted))
    if not isinstance(value, str):
        return False
    if op == "in_cidr":
        found = address(value)
        return found is not None and in_network(found, wanted)
    if op.startswith("semver_"):
        found = version(value)
        return found is not None and compares(op.removeprefix("semver_"), found, version(wanted))
    # Python compares texts by code points, which is the order and equality of their bytes.
    return {"contains": lambda: wanted in value, "starts_with": lambda: value.startswith(wanted),
            "ends_with": lambda: value.endswith(wanted), "matches": lambda: matches(wanted, value)}[op]()


def matches(pattern, text):
    # The end of a text is its very end; the `$` of Python is also before a last line feed.
    python = pattern if pattern.startswith("(?m)") else pattern.replace("$", r"\Z")
    return bool(re.search(python.replace("(?-u:", "(?a:"), text))


def compares(op, a, b):
    return {"eq": a == b, "lt": a < b, "lte": a <= b, "gt": a > b, "gte": a >= b}[op]
