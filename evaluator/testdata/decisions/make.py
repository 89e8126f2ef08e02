#!/usr/bin/env python3
"""Makes the catalogue of decisions: one JSON file a theme. README.md says how to read them.

`python3 make.py` writes the files, `python3 make.py --check` writes nothing and says whether they are the same.
What is decided is arranged by hand in `clauses.py` and `policies.py`, with the outcome in a word; `evaluate.py` works the
whole answer out from the specification, and both must agree.
"""
import os
import sys

sys.dont_write_bytecode = True

import clauses  # noqa: E402
import policies  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    same = True
    for theme in clauses.themes() + policies.themes():
        text, path = theme.text().encode(), os.path.join(HERE, theme.name + ".json")
        if "--check" not in sys.argv:
            with open(path, "wb") as file:
                file.write(text)
        elif not os.path.exists(path) or open(path, "rb").read() != text:
            same = False
            print(f"{theme.name}.json would change")
        print(f"{len(theme.decisions):5} {theme.name}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
