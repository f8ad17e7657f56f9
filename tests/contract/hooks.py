"""What Schemathesis is told of this shop: known things as examples, who asks, and what is off limits.

Schemathesis loads it (SCHEMATHESIS_HOOKS). It reads the world from FLOODGATE_CONTRACT_WORLD, and writes down
what each call was answered to FLOODGATE_CONTRACT_ANSWERS.
"""

import atexit
import collections
import itertools
import json
import os

import schemathesis

with open(os.environ["FLOODGATE_CONTRACT_WORLD"]) as file:
    WORLD = json.load(file)
# One call in so many comes from another than the usual caller: roles and owners have their refusals, too.
OTHERS_TURN = 6
# One write in so many keeps the key that was generated: repeats and mismatches have their answers, too.
SAME_KEY_TURN = 4

answers = collections.defaultdict(collections.Counter)
others = itertools.cycle(WORLD["keys"].values())
calls, writes = itertools.count(1), itertools.count(1)


@schemathesis.hook
def before_load_schema(context, schema):
    """Puts what is known into the document as examples. Later phases vary them, one part at a time."""
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            known = WORLD["calls"].get(f"{method.upper()} {path}", {})
            for parameter in operation["parameters"]:
                values = known.get(parameter["in"], {}).get(parameter["name"])
                if values:
                    parameter["examples"] = named(values)
            if known.get("body"):
                operation["requestBody"]["content"]["application/json"]["examples"] = named(known["body"])


def named(values):
    return {f"known-{at}": {"value": value} for at, value in enumerate(values)}


@schemathesis.auth(refresh_interval=None)
class Callers:
    """Shoppers come with their token, the company's systems with a key."""

    def get(self, case, context):
        if "public" in case.operation.tags:
            return WORLD["token"]
        return next(others) if next(calls) % OTHERS_TURN == 0 else WORLD["admin"]

    def set(self, case, data, context):
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def filter_case(context, case):
    """The keys that the check itself comes with are not up for deletion."""
    if case.operation.label != "DELETE /v1/admin/api-keys/{id}":
        return True
    return str(case.path_parameters["id"]) not in WORLD["own_keys"]


@schemathesis.hook
def before_call(context, case, kwargs):
    """Without this, every write but the first would be refused for its Idempotency-Key, unread."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key) <= 40 and all("!" <= letter <= "~" for letter in key):
        turn = next(writes)
        if turn % SAME_KEY_TURN:
            case.headers["Idempotency-Key"] = f"{key}-{turn}"


@schemathesis.hook
def after_call(context, case, response):
    word = str(response.status_code)
    if "application/problem+json" in response.headers.get("content-type", []):
        word += " " + response.json()["code"]
    answers[case.operation.label][word] += 1


@atexit.register
def write_answers():
    with open(os.environ["FLOODGATE_CONTRACT_ANSWERS"], "w") as file:
        json.dump(answers, file)
