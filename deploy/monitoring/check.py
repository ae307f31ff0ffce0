"""Loads the dashboard with Grafana's own types and compares what they kept.

A member that Grafana does not know, or has another type for, is lost on the way
through its types, and would be on import.
"""

import json
import pathlib
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(want, got, path):
    """Yields where got has not what want has."""
    if isinstance(want, dict) and isinstance(got, dict):
        for key, value in want.items():
            if key not in got:
                if value not in (None, "", [], {}, False):
                    yield f"{path}.{key} is not known"
            else:
                yield from lost(value, got[key], f"{path}.{key}")
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        for i, value in enumerate(want):
            yield from lost(value, got[i], f"{path}[{i}]")
    elif want != got:
        yield f"{path} is {want!r}, and was read as {got!r}"


def main():
    register_default_plugins()
    file = pathlib.Path(__file__).with_name("asap-dashboard.json")
    written = json.loads(file.read_text())
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(written)))
    problems = list(lost(written, read, "dashboard"))
    for problem in problems:
        print(problem, file=sys.stderr)
    panels = [p for p in read["panels"] if p["type"] != "row"]
    print(f"dashboard: {len(panels)} panels, {sum(len(p['targets']) for p in panels)} queries, {len(problems)} problems")
    return 1 if problems or not panels else 0


if __name__ == "__main__":
    sys.exit(main())
