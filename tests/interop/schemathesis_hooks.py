"""Gives schemathesis ids of things that are there: a document cannot name them, and an id made up is never found.

The environment has the ids as JSON, by the names of path parameters, under XT_IDS:

    {"webhook_id": ["…", "…"], "delivery_id": ["…"]}

Of the ids that schemathesis makes up as the document wants them, three in four are replaced by one of these (of those to
be deleted one in four); the others stay and belong to nobody, or to another company: the test puts some of those among
the ids. Which, follows from the id made up, so a seed always makes the same requests.
"""

import json
import os
import zlib

import schemathesis

IDS = json.loads(os.environ.get("XT_IDS", "{}"))


@schemathesis.hook
def before_call(context, case, kwargs):
    if is_negative(case):
        return
    wanted = 1 if case.method.upper() == "DELETE" else 3
    for name, made_up in (case.path_parameters or {}).items():
        known = IDS.get(name)
        if not known:
            continue
        number = zlib.crc32(f"{case.method} {case.path} {made_up}".encode("utf-8", "surrogatepass"))
        if number % 4 < wanted:
            case.path_parameters[name] = known[number // 4 % len(known)]


def is_negative(case):
    """Whether the parameters of the path are meant to be wrong."""
    components = getattr(case.meta, "components", None) or {}
    for kind, component in components.items():
        if "path" in str(getattr(kind, "value", kind)) and "negative" in str(component.mode).lower():
            return True
    return False
