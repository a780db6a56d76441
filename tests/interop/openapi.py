"""Lets schemathesis ask for what there is, and counts what it was answered.

Hooks of a run over /openapi.json, by SCHEMATHESIS_HOOKS. A description says what a symbol looks like, not
which ones exist: where schemathesis asks for something legal, often a value that is there takes its place, so
that answers with something in them are checked too, in every form that is offered.

TICKWIRE_VALUES is a file of JSON: {parameter: [values]}, or {"path parameter": [values]} for one path only.
TICKWIRE_COUNTS is written: {path: {status: answers}}.
"""

import atexit
import collections
import json
import os
import random
import threading
from urllib.parse import parse_qsl, urlsplit

import schemathesis
from schemathesis.core.parameters import ParameterLocation

# What a description cannot say: how the values of parameters must go together, and with what there is.
RELATIONS = (
    "must lie before",
    "must not lie",
    "must be less than",
    "is too long for what is stored",
    "must be `next` of an earlier answer",
    "there is no stream",
    "a time zone such as",
    "needs more bars before",
    # A pattern counts characters.
    "is not 1 to 64 bytes of UTF-8",
)

with open(os.environ["TICKWIRE_VALUES"], encoding="utf-8") as file:
    VALUES = json.load(file)

chance = random.Random(0)
counts = collections.defaultdict(collections.Counter)
lock = threading.Lock()


def values(path, parameter):
    return VALUES.get(f"{path} {parameter}") or VALUES.get(parameter)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    for path, item in raw_schema["paths"].items():
        for parameter in item["get"].get("parameters", []):
            known = values(path, parameter["name"])
            if known:
                listed = parameter["schema"].get("type") == "array"
                parameter["example"] = known[0].split(",") if listed else known[0]


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or case.meta.is_negative_at(ParameterLocation.QUERY):
        return
    path = case.operation.path
    offered = case.operation.definition.raw["responses"]["200"].get("content", {})
    with lock:
        for name in sorted(case.query or {}):
            known = values(path, name)
            if known and chance.random() < 0.7:
                case.query[name] = chance.choice(known)
        if offered:
            case.headers["Accept"] = chance.choice(sorted(offered))


@schemathesis.hook
def after_call(context, case, response):
    with lock:
        counts[case.operation.path][str(response.status_code)] += 1


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if "negative_data_rejection" in failure.checks:
        # Refused before it was looked at.
        if response.status_code in (414, 431):
            return False
        # An empty value counts as none, because forms send them; that is how nothing is written, too.
        query = urlsplit(response.request.url).query
        if not all(value for _, value in parse_qsl(query, keep_blank_values=True)):
            return False
        # This protocol refuses with 200 and a body that says so.
        if case.operation.path.startswith("/udf/"):
            return '"s":"error"' not in response.text
    if "positive_data_acceptance" in failure.checks:
        return not any(relation in response.text for relation in RELATIONS)
    return True


@atexit.register
def write():
    with open(os.environ["TICKWIRE_COUNTS"], "w", encoding="utf-8") as file:
        json.dump(counts, file)
