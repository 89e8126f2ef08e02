"""What a theme of the catalogue is made of, and how it is written down."""
import json

from evaluate import Evaluator

SWITCH = {"type": "boolean", "variants": {"on": True, "off": False}, "off_variant": "off"}


class Theme:
    """One file. Every subject has the key `user-42` unless it says otherwise."""

    def __init__(self, name, about):
        self.name, self.about = name, about
        self.flags, self.segments, self.decisions = {}, {}, []

    def flag(self, key, policy, config=None, at=1):
        assert key not in self.flags, key
        self.flags[key] = {"changed_at": at, "config": config or SWITCH, "policy": policy}
        return key

    def segment(self, key, policy, at=1):
        assert key not in self.segments, key
        self.segments[key] = {"changed_at": at, "policy": policy}
        return key

    def decide(self, flag, outcome, why, key="user-42", **attributes):
        """`outcome` is the start of "variant REASON rule-id detail experiment exposure", with those that there are."""
        subject = {"key": key, "attributes": attributes}
        answer, due = Evaluator(self.flags, self.segments).evaluate(flag, subject)
        words = [answer["variant"] or "none", answer["reason"], answer.get("rule_id"), answer.get("detail"),
                 answer.get("experiment"), "exposure" if due else None]
        found = " ".join(word for word in words if word)
        assert found == outcome, f"{self.name}, {flag}, {why}: by hand {outcome!r}, from the specification {found!r}"
        self.decisions.append({"why": why, "flag": flag, "subject": subject, "answer": answer, "exposure_due": due})

    def clause(self, key, op, values=None, attribute="a"):
        """Two flags with one rule each: it serves `on` when the clause holds, or when it holds negated."""
        for name, negate in [(key, None), (key + "/negated", True)]:
            clause = {"attribute": attribute, "op": op, "values": values, "negate": negate}
            clause = {field: value for field, value in clause.items() if value is not None}
            rule = {"id": "r", "when": [clause], "serve": {"variant": "on"}}
            self.flag(name, {"enabled": True, "rules": [rule], "default": {"variant": "off"}})
        return key

    def row(self, clause, outcome, why, key="user-42", **attributes):
        """What a clause comes to: `match`, `no match`, `wrong type`, or `missing`. Two decisions."""
        plain, negated = {"match": (1, 0), "no match": (0, 1), "wrong type": (0, 1), "missing": (0, 0)}[outcome]
        for flag, holds in [(clause, plain), (clause + "/negated", negated)]:
            decided = "on RULE_MATCH r" if holds else "off DEFAULT"
            self.decide(flag, decided, f"{outcome}: {why}", key=key, **attributes)

    def text(self):
        def lines(mapping):
            return ",\n".join(f"    {dump(key)}: {dump(value)}" for key, value in mapping.items())

        decisions = ",\n".join(f"    {dump(one)}" for one in self.decisions)
        segments = f"\n{lines(self.segments)}\n  " if self.segments else ""
        return (f'{{\n  "theme": {dump(self.name)},\n  "about": {dump(self.about)},\n  "flags": {{\n{lines(self.flags)}\n'
                f'  }},\n  "segments": {{{segments}}},\n  "decisions": [\n{decisions}\n  ]\n}}\n')


def dump(value):
    return json.dumps(value, ensure_ascii=False)
