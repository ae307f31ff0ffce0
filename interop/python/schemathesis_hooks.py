"""What schemathesis cannot know of our interface: values that exist, formats of
ours, and what parameters have to do with one another. Loaded through schemathesis.toml.

INTEROP_EXAMPLES names a file with {"METHOD /path": {"parameter": value}} of what is
in the node; a method of * means all.
"""

import json
import os
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

ALIASES = {"agent_id": "agent", "consumer_id": "consumer", "format": "export_format", "task": "subject"}
KNOWN = json.loads(Path(os.environ["INTEROP_EXAMPLES"]).read_text())

schemathesis.openapi.format("time-zone", st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Pacific/Apia"]))


@schemathesis.hook
def before_load_schema(ctx, raw_schema):
    """Puts what exists into the document as examples. A second name of a parameter
    is left out, as the two must not differ; so is a cursor where the list gives out
    none: it is opaque, and good for its own list alone."""
    for path, item in raw_schema["paths"].items():
        for method, operation in item.items():
            known = KNOWN.get(f"* {path}", {}) | KNOWN.get(f"{method.upper()} {path}", {})
            parameters = operation.get("parameters", [])
            for parameter in parameters:
                if parameter["name"] in known:
                    parameter["example"] = known[parameter["name"]]
                if parameter["name"] == "group_by":  # a pattern cannot say that nothing is named twice
                    parameter["schema"] = {"type": "string", "enum": ["agent", "day", "week,outcome", "skill,delegation,hour", "month,consumer,agent"]}
                if parameter["name"] == "cursor" and "cursor" in known:
                    parameter["schema"] = {"type": "string", "enum": [known["cursor"]]}
            names = {parameter["name"] for parameter in parameters}
            parameters[:] = [one for one in parameters if ALIASES.get(one["name"]) not in names and (one["name"] != "cursor" or "cursor" in known)]
            if "body" in known:
                operation["requestBody"]["content"]["application/json"]["example"] = known["body"]
