"""Checks requests that a receiver really got, by code that is not the product's.

Two verifiers: the algorithm of the integration guide, written here from its text, and the package
`standardwebhooks`. Standard input is a JSON list of

    {"name": "...", "headers": {"name": "value"}, "body": "<base64>",
     "guide": ["secrets that made the guide's header"],
     "standard": ["secrets that made a signature of the Standard Webhooks trio"],
     "neither": ["secrets that made none of them"]}

and whatever is wrong is printed, a line each. Exit: 0 all is as it says, 1 something is not.
"""

import base64
import hashlib
import hmac
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def guide_accepts(secret, headers, body):
    """The guide signs `timestamp + body` with the secret as it stands: sha256=<hex>."""
    signed = headers["x-xtsystems-timestamp"].encode() + body
    expected = "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, headers["x-xtsystems-signature"])


def standard_accepts(secret, headers, body):
    """A secret that begins with `whsec_` is base64, which the package decodes; any other is its own bytes."""
    key = secret if secret.startswith("whsec_") else secret.encode()
    try:
        Webhook(key).verify(body, headers, json_parse=False)
    except WebhookVerificationError:
        return False
    return True


def failures(request):
    headers, body = request["headers"], base64.b64decode(request["body"])
    secrets = dict.fromkeys(request["guide"] + request["standard"] + request["neither"])
    for form, accepts in (("guide", guide_accepts), ("standard", standard_accepts)):
        for secret in secrets:
            expected = secret in request[form]
            if accepts(secret, headers, body) != expected:
                yield f"{form}: {'refused' if expected else 'accepted'} with {secret!r}"
        for secret in request[form]:
            time = "x-xtsystems-timestamp" if form == "guide" else "webhook-timestamp"
            tampered = {
                "a longer body": (headers, body + b" "),
                "another body": (headers, body[:1] + b" " + body[1:]),
                "another time": (headers | {time: str(int(headers[time]) + 1)}, body),
            }
            if form == "standard":
                tampered["another id"] = (headers | {"webhook-id": headers["webhook-id"][::-1]}, body)
            for what, (changed, sent) in tampered.items():
                if accepts(secret, changed, sent):
                    yield f"{form}: accepted {what} with {secret!r}"


def main():
    requests = json.load(sys.stdin)
    wrong = [f"{request['name']}: {failure}" for request in requests for failure in failures(request)]
    print("\n".join(wrong) if wrong else f"{len(requests)} requests verified")
    return 1 if wrong or not requests else 0


if __name__ == "__main__":
    sys.exit(main())
