"""Holds frames against the description of the WebSocket: one frame of JSON a line.

Usage: asyncapi.py DOCUMENT NAME-OF-THE-SCHEMA FRAMES
"""

import json
import sys

import jsonschema_rs

with open(sys.argv[1], encoding="utf-8") as file:
    document = json.load(file)
validator = jsonschema_rs.Draft202012Validator({**document, "$ref": f"#/components/schemas/{sys.argv[2]}"})
with open(sys.argv[3], encoding="utf-8") as file:
    for line in file:
        for error in validator.iter_errors(json.loads(line)):
            sys.exit(f"{error}\n{line[:2000]}")
