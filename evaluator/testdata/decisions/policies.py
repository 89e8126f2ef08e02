"""The themes of the catalogue that are about policies: what is decided when, and by what."""
from bucket import bucket
from theme import SWITCH, Theme

COLOURS = {"type": "string", "variants": {"red": "R", "green": "G", "blue": "B"}, "off_variant": "blue"}


def themes():
    return [order(), prerequisites(), segments(), rollouts(), bucketing_values(), experiments(), holdouts(), exposures(),
            config_versions(), values()]


def on(**more):
    return {"enabled": True, "default": {"variant": "off"}, **more}


def rule(when, serve, **more):
    return {"when": when, "serve": serve if isinstance(serve, dict) else {"variant": serve}, **more}


def is_(attribute, value):
    return {"attribute": attribute, "op": "in", "values": [value]}


def order():
    t = Theme("order", "The order of decision, and the reasons.")
    t.decide("nobody", "none FLAG_NOT_FOUND", "an unknown flag has no version either")
    everything = on(prerequisites=[{"flag": "ready", "variants": ["on"]}],
                    targets=[{"variant": "green", "subjects": ["ada", "bob"]}, {"variant": "red", "subjects": ["cy"]}],
                    rules=[rule([is_("a", 1)], "red", id="ones"), rule([is_("a", 1), is_("b", 2)], "green"),
                           rule([is_("b", 2)], "green", id="twos")],
                    default={"variant": "red"})
    t.flag("ready", on(default={"variant": "on"}))
    t.flag("unready", on())
    t.flag("everything", everything, COLOURS, at=5)
    t.flag("archived", {**everything, "enabled": False}, {**COLOURS, "archived": True}, at=6)
    t.flag("disabled", {**everything, "enabled": False}, COLOURS)
    t.flag("waiting", {**everything, "prerequisites": [{"flag": "unready", "variants": ["on"]}]}, COLOURS)
    t.decide("archived", "none FLAG_NOT_FOUND ARCHIVED", "archived comes before everything, also before disabled", key="ada")
    t.decide("disabled", "blue DISABLED", "disabled comes before targets and rules", key="ada", a=1)
    t.decide("waiting", "blue PREREQUISITE_FAILED", "a prerequisite comes before targets and rules", key="ada", a=1)
    t.decide("everything", "green TARGET_MATCH", "a target comes before rules", key="ada", a=1)
    t.decide("everything", "green TARGET_MATCH", "the second subject of a target", key="bob")
    t.decide("everything", "red TARGET_MATCH", "the second target", key="cy", b=2)
    t.decide("everything", "red DEFAULT", "keys compare by bytes", key="Ada")
    t.decide("everything", "red RULE_MATCH ones", "the first rule that holds decides", a=1, b=2)
    t.decide("everything", "green RULE_MATCH twos", "a later rule, when the first does not hold", b=2)
    t.decide("everything", "red DEFAULT", "no rule holds", a=2)
    several = on(rules=[rule([is_("a", 1), is_("b", 2)], "on"), rule([is_("a", 1), is_("b", 3)], "on")])
    t.flag("clauses", several)
    t.decide("clauses", "on RULE_MATCH rule-1", "all clauses hold; a rule without id is called by its place", a=1, b=2)
    t.decide("clauses", "on RULE_MATCH rule-2", "the place counts from 1", a=1, b=3)
    t.decide("clauses", "off DEFAULT", "one clause of two is not enough", a=1)
    t.flag("everybody", on(rules=[rule([], "on")]))
    t.decide("everybody", "on RULE_MATCH rule-1", "a rule without clauses holds for everybody")
    t.flag("plain", on())
    t.decide("plain", "off STATIC", "no rule, target or rollout")
    t.flag("with-prerequisite", on(prerequisites=[{"flag": "ready", "variants": ["on"]}], default={"variant": "on"}))
    t.decide("with-prerequisite", "on STATIC", "a prerequisite does not keep it from being static")
    t.flag("with-target", on(targets=[{"variant": "on", "subjects": ["ada"]}]))
    t.decide("with-target", "off DEFAULT", "a target does")
    t.flag("with-rollout", on(default={"rollout": {"weights": [{"variant": "on", "weight": 1}]}}))
    t.decide("with-rollout", "on SPLIT", "so does a rollout, even one with a single variant")
    t.flag("disabled-off", {"enabled": False, "default": {"variant": "on"}}, {**SWITCH, "off_variant": "on"})
    t.decide("disabled-off", "on DISABLED", "the off variant need not be false; `enabled` says that it is disabled")
    return t


def prerequisites():
    t = Theme("prerequisites", "A prerequisite must be enabled, there, and at one of its variants for the same subject.")
    t.flag("base", on(rules=[rule([is_("a", 1)], "on")]), at=3)
    t.flag("base-off", {"enabled": False, "default": {"variant": "on"}}, {**SWITCH, "off_variant": "on"})
    t.flag("base-archived", on(default={"variant": "on"}), {**SWITCH, "archived": True})
    t.flag("colour", on(rules=[rule([is_("a", n)], c) for n, c in enumerate(["red", "green"])], default={"variant": "blue"}),
           COLOURS)
    for key, wanted in [("needs", [("base", ["on"])]), ("needs-off", [("base", ["off"])]), ("needs-any", [("base", ["on", "off"])]),
                        ("needs-disabled", [("base-off", ["on", "off"])]), ("needs-archived", [("base-archived", ["on"])]),
                        ("needs-two", [("base", ["on"]), ("colour", ["red", "green"])]), ("needs-needs", [("needs", ["on"])]),
                        ("needs-not-needs", [("needs", ["off"])])]:
        listed = [{"flag": flag, "variants": variants} for flag, variants in wanted]
        t.flag(key, on(prerequisites=listed, default={"variant": "on"}))
    t.decide("needs", "on STATIC", "the prerequisite serves on to this subject", a=1)
    t.decide("needs", "off PREREQUISITE_FAILED", "the prerequisite serves off to this subject")
    t.decide("needs-off", "on STATIC", "off is a variant that one can ask for")
    t.decide("needs-off", "off PREREQUISITE_FAILED", "on is not off", a=1)
    t.decide("needs-any", "on STATIC", "any of several variants", a=1)
    t.decide("needs-any", "on STATIC", "any of several variants", a=2)
    t.decide("needs-disabled", "off PREREQUISITE_FAILED", "a disabled flag fails, although its off variant is wanted")
    t.decide("needs-archived", "off PREREQUISITE_FAILED", "an archived flag is not there")
    t.decide("needs-two", "on STATIC", "both hold", a=1)
    t.decide("needs-two", "off PREREQUISITE_FAILED", "the first fails", a=0)
    t.decide("needs-needs", "on STATIC", "prerequisites of prerequisites", a=1)
    t.decide("needs-needs", "off PREREQUISITE_FAILED", "a prerequisite that fails serves its off variant, which is not on")
    t.decide("needs-not-needs", "on STATIC", "but it is enabled and at off, if that is what is wanted")
    t.flag("needs-blue", on(prerequisites=[{"flag": "colour", "variants": ["blue"]}], rules=[rule([is_("a", 0)], "on")]))
    t.decide("needs-blue", "off DEFAULT", "only then rules are looked at", a=7)
    t.decide("needs-blue", "off PREREQUISITE_FAILED", "green is not blue", a=1)
    return t


def segments():
    t = Theme("segments", "Excluded beats included beats rules; segments nest.")
    t.segment("staff", {"included": ["ada", "bob"], "excluded": ["bob", "cy"], "rules": [{"when": [is_("team", "core")]}]})
    t.segment("empty", {})
    t.segment("everybody", {"rules": [{"when": []}]})
    t.segment("nested", {"rules": [{"when": [{"op": "in_segment", "values": ["staff"]}, is_("a", 1)]}]})
    t.segment("not-staff", {"rules": [{"when": [{"op": "in_segment", "values": ["staff"], "negate": True}]}]})
    t.segment("deep", {"rules": [{"when": [{"op": "in_segment", "values": ["empty", "nested"]}]}], "excluded": ["eve"]})
    t.segment("two-rules", {"rules": [{"when": [is_("a", 1)]}, {"when": [is_("b", 1)]}]})
    for key, values in [("staff", ["staff"]), ("empty", ["empty"]), ("everybody", ["everybody"]), ("nested", ["nested"]),
                        ("not-staff", ["not-staff"]), ("deep", ["deep"]), ("either", ["empty", "staff"]),
                        ("two-rules", ["two-rules"])]:
        t.clause(key, "in_segment", values, attribute=None)
    t.row("staff", "match", "included", key="ada")
    t.row("staff", "no match", "excluded beats included", key="bob")
    t.row("staff", "no match", "excluded beats rules", key="cy", team="core")
    t.row("staff", "match", "a rule", key="dan", team="core")
    t.row("staff", "match", "included without any rule holding", key="ada", team="other")
    t.row("staff", "no match", "neither", key="dan")
    t.row("empty", "no match", "nobody is in an empty segment", key="ada")
    t.row("everybody", "match", "a rule without clauses takes everybody in", key="ada")
    t.row("nested", "match", "in the inner one, and the clause holds", key="ada", a=1)
    t.row("nested", "no match", "in the inner one only", key="ada")
    t.row("nested", "no match", "not in the inner one", key="bob", a=1)
    t.row("not-staff", "match", "a negated clause within", key="bob")
    t.row("not-staff", "no match", "a negated clause within", key="ada")
    t.row("deep", "match", "two steps down", key="ada", a=1)
    t.row("deep", "no match", "excluded at the top", key="eve", team="core", a=1)
    t.row("either", "match", "any of several segments", key="ada")
    t.row("either", "no match", "none of several segments", key="dan")
    t.row("two-rules", "match", "the second rule", b=1)
    place, other = bucket("beta", "user-42", 100_000), bucket("pepper", "user-42", 100_000)
    assert (place, other) == (46_272, 99_276)
    shares = [("beta", place + 1, None, "match", "its bucket is the last of the share"),
              ("beta-before", place, "beta", "no match", "its bucket is the first after the share"),
              ("pepper", other + 1, "pepper", "match", "a salt of its own"), ("none", 0, "beta", "no match", "no share at all"),
              ("all", 100_000, "beta", "match", "all of them")]
    for key, share, salt, outcome, why in shares:
        rollout = {"bucket_by": "subject_key", "share": share, "of": 100_000}
        t.segment(key, {"rules": [{"when": [], "rollout": {**rollout, "salt": salt} if salt else rollout}]})
        t.clause("share-" + key, "in_segment", [key], attribute=None)
        t.row("share-" + key, outcome, why)
    t.segment("by-org", {"rules": [{"when": [], "rollout": {"bucket_by": "org", "share": 1, "of": 1}},
                                   {"when": [is_("a", 1)]}]})
    t.clause("by-org", "in_segment", ["by-org"], attribute=None)
    t.row("by-org", "match", "a share of everybody who has the attribute", org="o")
    t.row("by-org", "no match", "without a value there is no bucket, so no share")
    t.row("by-org", "match", "then a later rule can take the subject in", a=1)
    t.row("by-org", "no match", "a list is no value to bucket by", org=["o"])
    return t


def shares(*weights):
    return [{"variant": variant, "weight": weight} for variant, weight in weights]


def rollouts():
    t = Theme("rollouts", "The variant is the first whose cumulative weight exceeds the bucket. See also the bucketing vectors.")
    # The subject "user-42" has the bucket 70,386 of 100,000 with the salt "checkout.new-ui".
    place = bucket("checkout.new-ui", "user-42", 100_000)
    assert place == 70_386
    config = {**COLOURS, "salt": "checkout.new-ui"}
    rest = 100_000 - place
    cases = [("first", shares(("red", place + 1), ("green", rest - 1)), "red", "its bucket is the last of the first share"),
             ("second", shares(("red", place), ("green", rest)), "green", "its bucket is the first of the second share"),
             ("zero-before", shares(("red", place), ("blue", 0), ("green", rest)), "green", "a weight of 0 serves nobody"),
             ("zero-first", shares(("blue", 0), ("red", 100_000)), "red", "not even at the beginning"),
             ("zero-last", shares(("red", 100_000), ("blue", 0)), "red", "nor at the end"),
             ("alone", shares(("red", place), ("green", 1), ("blue", rest - 1)), "green", "a share of one bucket"),
             ("again", shares(("red", 50_000), ("green", 10_000), ("red", 40_000)), "red", "a variant that comes again"),
             ("order", shares(("green", rest), ("red", place)), "red", "the order of shares counts"),
             ("thirds", shares(("red", 1), ("green", 1), ("blue", 1)), "blue", "the bucket is of the sum: 2 of 3"),
             ("one", shares(("green", 1)), "green", "the bucket is of the sum: 0 of 1"),
             ("greatest", shares(("red", 2**30), ("green", 2**30 - 1)), "green", "the greatest sum, 2^31 - 1")]
    for key, weights, variant, why in cases:
        t.flag(key, on(default={"rollout": {"weights": weights}}), config)
        t.decide(key, f"{variant} SPLIT", why)
    half = shares(("red", 50_000), ("green", 50_000))
    t.flag("checkout.new-ui", on(default={"rollout": {"weights": half}}), COLOURS)
    t.decide("checkout.new-ui", "green SPLIT", "the salt of a flag is its key when none is given")
    t.flag("own-salt", on(default={"rollout": {"salt": "checkout.new-ui", "weights": half}}), {**COLOURS, "salt": "x"})
    t.decide("own-salt", "green SPLIT", "the salt of the rollout comes before that of the flag")
    t.flag("in-rule", on(rules=[rule([is_("a", 1)], {"rollout": {"weights": half}}, id="half")], default={"variant": "blue"}),
           config)
    t.decide("in-rule", "green SPLIT half", "a rollout in a rule: SPLIT, and the rule", a=1)
    t.decide("in-rule", "blue DEFAULT", "the rule does not hold")
    t.flag("explicit", on(default={"rollout": {"bucket_by": "subject_key", "algorithm": "murmur3-v1", "weights": half}}), config)
    t.decide("explicit", "green SPLIT", "what is written out is the same as what is left out")
    for key in ["", "a", "ada", "Ünïcödé", "用户", "👩🏽‍🚀", "e\u0301", "é", "x" * 300]:
        outcome = "green SPLIT BUCKETING_KEY_MISSING"
        if key:
            outcome = ("red" if bucket("checkout.new-ui", key, 100_000) < 50_000 else "green") + " SPLIT"
        t.decide("explicit", outcome, "an empty key has no bucket" if key == "" else "keys of every kind", key=key)
    return t


def bucketing_values():
    t = Theme("bucketing-values", "What can be bucketed: a text that is not empty, or a whole number in its decimal form. "
              "Otherwise the last variant is served, and no exposure is due.")
    weights = shares(("red", 1), ("green", 1), ("blue", 0))
    t.flag("by-org", on(default={"rollout": {"bucket_by": "org", "salt": "s", "weights": weights}}), {**COLOURS, "track": True})

    def decided(text):
        return ["red", "green"][bucket("s", text, 2)] + " SPLIT exposure"

    for value, text in [("acme", "acme"), ("42", "42"), (42, "42"), (42.0, "42"), (-7, "-7"), (0, "0"), (-0.0, "0"),
                        (1e15, "1000000000000000"), (2**53, "9007199254740992"), (-(2**53), "-9007199254740992"),
                        (" ", " "), ("\u0000", "\u0000"), ("null", "null")]:
        why = "a text" if isinstance(value, str) else "a whole number in its decimal form: " + text
        t.decide("by-org", decided(text), why, org=value)
    missing = "blue SPLIT BUCKETING_KEY_MISSING"
    t.decide("by-org", missing, "not there: the last variant, even with a weight of 0")
    for value, why in [(None, "null"), ("", "an empty text"), (0.5, "a fraction"), (2**53 + 2, "a number beyond 2^53"),
                       (1e300, "a number beyond 2^53"), (True, "a boolean"), (False, "a boolean"), (["acme"], "a list"),
                       ([], "an empty list")]:
        t.decide("by-org", missing, why + " cannot be bucketed", org=value)
    t.flag("in-rule", on(rules=[rule([], {"rollout": {"bucket_by": "org", "weights": shares(("on", 1), ("off", 1))}})]))
    t.decide("in-rule", "off SPLIT rule-1 BUCKETING_KEY_MISSING", "the rule has decided; the next one is not tried")
    t.flag("key", on(default={"rollout": {"weights": shares(("on", 1), ("off", 1))}}))
    t.decide("key", "off SPLIT BUCKETING_KEY_MISSING", "an empty key is no value either", key="")
    return t


def experiments():
    t = Theme("experiments", "Who takes part: not in the holdout, and with a slot in the range. The others go on to the next rule.")
    weights = shares(("red", 1), ("green", 1))
    # The bucket of a rollout has nothing to do with the slot of a layer.
    assert bucket("checkout.new-ui", "user-42", 2) == 1
    config = {**COLOURS, "salt": "checkout.new-ui"}

    def flag(key, experiment, **rollout):
        rollout = {"weights": weights, **rollout, "experiment": {"key": "ckt-" + key, **experiment}}
        rules = [rule([is_("a", 1)], {"rollout": rollout}, id="exp"), rule([is_("b", 1)], "red", id="next")]
        return t.flag(key, on(rules=rules, default={"variant": "blue"}), config)

    def layer(key, start, end):
        return {"layer": {"key": key, "range": [start, end]}}

    everybody = flag("everybody", {})
    t.decide(everybody, "green SPLIT exp ckt-everybody exposure", "without layer and holdout everybody takes part", a=1)
    t.decide(everybody, "blue DEFAULT", "the clauses of the rule come first", a=2)
    t.decide(everybody, "red RULE_MATCH next", "and another rule is no experiment", a=2, b=1)
    ranges = [("all", True, "the whole layer"), ("first", True, "its slot is the first of the range"),
              ("last", True, "its slot is the last of the range"), ("only", True, "a range of one slot"),
              ("before", False, "the range ends before its slot"), ("after", False, "the range begins after its slot")]
    for name, within, why in ranges:
        # Each has a layer for itself: in one layer their ranges would overlap.
        slot = bucket("layer=" + name, "user-42", 10_000)
        start, end = {"all": (0, 10_000), "first": (slot, 10_000), "last": (0, slot + 1), "only": (slot, slot + 1),
                      "before": (0, slot), "after": (slot + 1, 10_000)}[name]
        flag(name, layer(name, start, end))
        t.decide(name, f"green SPLIT exp ckt-{name} exposure" if within else "blue DEFAULT", why, a=1)
        t.decide(name, f"green SPLIT exp ckt-{name} exposure" if within else "red RULE_MATCH next",
                 why + ("" if within else ": the next rule is tried"), a=1, b=1)
    slot = bucket("layer=checkout", "user-42", 10_000)
    assert slot == 3_082 and bucket("layer=search", "user-42", 10_000) == 5_240
    flag("other-layer", layer("search", 0, slot + 1))
    t.decide("other-layer", "blue DEFAULT", "in another layer it has another slot", a=1)
    slot = bucket("layer=salty", "user-42", 10_000)
    flag("own-salt", layer("salty", slot, slot + 1), salt="s")
    t.decide("own-salt", ["red", "green"][bucket("s", "user-42", 2)] + " SPLIT exp ckt-own-salt exposure",
             "the salt of the rollout has no part in the slot", a=1)
    org = bucket("layer=orgs", "acme", 10_000)
    flag("by-org", layer("orgs", org, org + 1), bucket_by="org")
    variant = ["red", "green"][bucket("checkout.new-ui", "acme", 2)]
    t.decide("by-org", f"{variant} SPLIT exp ckt-by-org exposure", "slot and bucket are both of what is bucketed by", a=1, org="acme")
    t.decide("by-org", "blue DEFAULT", "without a value there is no slot, so the next rule is tried", a=1)
    t.decide("by-org", "red RULE_MATCH next", "without a value there is no slot, so the next rule is tried", a=1, b=1, org=["acme"])
    flag("by-org-all", layer("orgs-2", 0, 10_000), bucket_by="org")
    t.decide("by-org-all", "blue DEFAULT", "even if all slots take part", a=1, org=True)
    flag("by-org-free", {}, bucket_by="org")
    t.decide("by-org-free", "green SPLIT exp BUCKETING_KEY_MISSING ckt-by-org-free",
             "without a layer, as in any rollout: the last variant, and no exposure", a=1)
    number = bucket("layer=numbers", "42", 10_000)
    flag("by-number", layer("numbers", number, number + 1), bucket_by="n")
    variant = ["red", "green"][bucket("checkout.new-ui", "42", 2)]
    t.decide("by-number", f"{variant} SPLIT exp ckt-by-number exposure", "a whole number is bucketed by its decimal form", a=1, n=42.0)
    slot = bucket("layer=checkout", "user-42", 10_000)
    two = [rule([], {"rollout": {"weights": weights, "experiment": {"key": name, **layer("checkout", start, end)}}}, id=name)
           for name, start, end in [("low", 0, slot), ("high", slot, 10_000)]]
    t.flag("exclusive", on(rules=two, default={"variant": "blue"}), config)
    t.decide("exclusive", "green SPLIT high high exposure", "two experiments of a layer exclude each other: one slot, one of them")
    other = next(f"user-{n}" for n in range(100) if bucket("layer=checkout", f"user-{n}", 10_000) < slot)
    variant = ["red", "green"][bucket("checkout.new-ui", other, 2)]
    t.decide("exclusive", f"{variant} SPLIT low low exposure", "the other of them", key=other)
    t.flag("disabled", {"enabled": False, "rules": two, "default": {"variant": "blue"}}, config)
    t.decide("disabled", "blue DISABLED", "a disabled flag runs no experiment")
    t.flag("needs-green", on(prerequisites=[{"flag": "exclusive", "variants": ["green"]}], default={"variant": "on"}))
    t.decide("needs-green", "on STATIC", "a prerequisite may run one; that is no exposure of the flag that needs it")
    return t


def holdouts():
    t = Theme("holdouts", "A holdout is a segment: who is in it takes no part in what names it.")
    place = bucket("global", "user-42", 100)
    t.segment("global", {"rules": [{"when": [], "rollout": {"share": place + 1, "of": 100}}]}, at=8)
    t.segment("smaller", {"rules": [{"when": [], "rollout": {"share": place, "of": 100, "salt": "global"}}]}, at=9)
    t.segment("named", {"included": ["ada"], "excluded": ["bob"], "rules": [{"when": [is_("held", True)]}]}, at=10)
    t.segment("nested", {"rules": [{"when": [{"op": "in_segment", "values": ["named", "global"]}, is_("deep", 1)]}]}, at=2)
    t.segment("by-org", {"rules": [{"when": [], "rollout": {"bucket_by": "org", "share": 1, "of": 1}}]})

    def flag(key, holdout, **rollout):
        rollout = {"weights": shares(("on", 1)), **rollout}
        rollout["experiment"] = {"key": key, "holdout": holdout, **rollout.pop("experiment", {})}
        t.flag(key, on(rules=[rule([], {"rollout": rollout}), rule([is_("b", 1)], "on")]), at=3)

    for key in ["global", "smaller", "named", "nested", "by-org"]:
        flag(key, key)
    t.decide("global", "off DEFAULT", "its bucket is the last of the holdout's share: kept out")
    t.decide("global", "on RULE_MATCH rule-2", "and the next rule is tried", b=1)
    t.decide("smaller", "on SPLIT rule-1 smaller exposure", "its bucket is the first after the holdout's share")
    t.decide("named", "off DEFAULT", "included by name", key="ada")
    t.decide("named", "off DEFAULT", "by a rule", held=True)
    t.decide("named", "on SPLIT rule-1 named exposure", "excluded from the holdout, so not kept out", key="bob", held=True)
    t.decide("named", "on SPLIT rule-1 named exposure", "not in the holdout", held=False)
    t.decide("nested", "off DEFAULT", "a holdout can nest other segments", deep=1)
    t.decide("nested", "on SPLIT rule-1 nested exposure", "not in the outer one")
    t.decide("by-org", "off DEFAULT", "a holdout has a `bucket_by` of its own", org="acme")
    t.decide("by-org", "on SPLIT rule-1 by-org exposure", "without a value it has no share, so nobody is kept out")
    slot = bucket("layer=checkout", "user-42", 10_000)
    flag("both", "named", experiment={"layer": {"key": "checkout", "range": [slot, slot + 1]}})
    t.decide("both", "on SPLIT rule-1 both exposure", "in the range and not in the holdout")
    t.decide("both", "off DEFAULT", "in the range, but in the holdout", held=True)
    flag("neither", "named", experiment={"layer": {"key": "checkout", "range": [slot + 1, slot + 2]}})
    t.decide("neither", "off DEFAULT", "not in the holdout, but not in the range")
    flag("org-held", "named", bucket_by="org", weights=shares(("on", 1), ("off", 1)))
    t.decide("org-held", "off SPLIT rule-1 BUCKETING_KEY_MISSING org-held", "not kept out, but nothing to bucket by: no exposure")
    t.decide("org-held", "off DEFAULT", "kept out comes first", held=True)
    return t


def exposures():
    t = Theme("exposures", "An exposure is due for experiments, and for every decision of a flag that says `track`; "
              "not without a bucketing value, and not for a flag that is not found.")
    tracked = {**SWITCH, "track": True}
    experiment = {"rollout": {"bucket_by": "org", "weights": shares(("on", 1)), "experiment": {"key": "e"}}}
    policy = on(prerequisites=[{"flag": "ready", "variants": ["on"]}], targets=[{"variant": "on", "subjects": ["ada"]}],
                rules=[rule([is_("a", 1)], "on", id="plain"), rule([is_("a", 2)], experiment, id="exp"),
                       rule([is_("a", 3)], {"rollout": {"bucket_by": "org", "weights": shares(("on", 1))}}, id="split")])
    t.flag("ready", on(rules=[rule([is_("ready", False)], "off")], default={"variant": "on"}))
    t.flag("plain", policy)
    t.flag("tracked", policy, tracked)
    t.flag("tracked-off", {**policy, "enabled": False}, tracked)
    t.flag("tracked-archived", policy, {**tracked, "archived": True})
    for flag, due in [("plain", ""), ("tracked", " exposure")]:
        t.decide(flag, "on TARGET_MATCH" + due, "a target", key="ada")
        t.decide(flag, "on RULE_MATCH plain" + due, "a rule", a=1)
        t.decide(flag, "on SPLIT split" + due, "a rollout that is no experiment", a=3, org="acme")
        t.decide(flag, "off DEFAULT" + due, "the default")
        t.decide(flag, "off PREREQUISITE_FAILED" + due, "a prerequisite that fails", ready=False)
        t.decide(flag, "on SPLIT exp e exposure", "an experiment", a=2, org="acme")
        t.decide(flag, "on SPLIT exp BUCKETING_KEY_MISSING e", "an experiment without a bucketing value", a=2)
        t.decide(flag, "on SPLIT split BUCKETING_KEY_MISSING", "a rollout without a bucketing value", a=3)
    t.decide("tracked-off", "off DISABLED exposure", "a disabled flag that says `track`")
    t.decide("tracked-archived", "none FLAG_NOT_FOUND ARCHIVED", "an archived one is not found")
    t.decide("unknown", "none FLAG_NOT_FOUND", "nor is an unknown one")
    return t


def config_versions():
    t = Theme("config-versions", "The version at which the flag, or anything that it uses, last changed.")
    t.segment("inner", {}, at=40)
    t.segment("outer", {"rules": [{"when": [{"op": "in_segment", "values": ["inner"]}]}]}, at=20)
    t.segment("unused", {}, at=99)
    t.segment("held", {"rules": [{"when": [{"op": "in_segment", "values": ["inner"]}]}]}, at=30)
    in_outer = [{"op": "in_segment", "values": ["outer"]}]
    held = {"rollout": {"weights": shares(("on", 1)), "experiment": {"key": "e", "holdout": "held"}}}
    t.flag("alone", on(), at=7)
    t.flag("uses", on(rules=[rule(in_outer, "on")]), at=8)
    t.flag("newer", on(rules=[rule(in_outer, "on")]), at=50)
    t.flag("needs", on(prerequisites=[{"flag": "uses", "variants": ["on"]}]), at=9)
    t.flag("holds-out", on(rules=[rule([], held)]), at=10)
    t.flag("archived", on(rules=[rule(in_outer, "on")]), {**SWITCH, "archived": True}, at=11)
    t.flag("disabled", {"enabled": False, "rules": [rule(in_outer, "on")], "default": {"variant": "on"}}, at=12)
    for flag, version, outcome, why in [
            ("alone", 7, "off STATIC", "its own"), ("uses", 40, "off DEFAULT", "that of a segment within a segment"),
            ("newer", 50, "off DEFAULT", "its own, when that is the latest"),
            ("needs", 40, "off PREREQUISITE_FAILED", "that of what a prerequisite uses"),
            ("holds-out", 40, "on SPLIT rule-1 e exposure", "that of what a holdout uses"),
            ("archived", 40, "none FLAG_NOT_FOUND ARCHIVED", "also for an archived flag"),
            ("disabled", 40, "off DISABLED", "whether or not what it uses had a part in this answer"),
            ("unknown", 0, "none FLAG_NOT_FOUND", "0 for an unknown flag")]:
        t.decide(flag, outcome, why)
        assert t.decisions[-1]["answer"]["config_version"] == version, flag
    return t


def values():
    t = Theme("values", "Values are those of the variants, of every type.")
    kinds = [("boolean", {"on": True, "off": False}), ("string", {"on": "", "off": "größe \"1\"\n"}),
             ("number", {"on": 1.5, "off": -9007199254740992}),
             ("object", {"on": {"a": {"b": [1, None, "x"]}}, "off": {}})]
    for kind, variants in kinds:
        config = {"type": kind, "variants": variants, "off_variant": "off"}
        t.flag(kind, on(targets=[{"variant": "on", "subjects": ["ada"]}]), config)
        t.decide(kind, "on TARGET_MATCH", f"a value of the type {kind}", key="ada")
        t.decide(kind, "off DEFAULT", f"a value of the type {kind}")
    t.flag("one", on(default={"variant": "only"}), {"type": "string", "variants": {"only": "one"}, "off_variant": "only"})
    t.decide("one", "only STATIC", "a flag may have one variant")
    return t
