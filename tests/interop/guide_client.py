"""XTSystems' side of the integration guide: its Pydantic models, and its calls in its order.

    guide_client.py URL KEY RECEIVER

registers a webhook at RECEIVER, lists, changes and tests it, reads its deliveries and deletes it, and holds every answer
against the models and the words of the guide. RECEIVER must answer 200. What is wrong is said on standard error.
"""

import sys
import time
import uuid
from datetime import datetime
from typing import Any, Dict, List, Optional

import requests
from pydantic import BaseModel, HttpUrl, TypeAdapter

TIMEOUT_SECONDS = 60


# From here to `WebhookResponse`: the models of the guide, section 5, as they stand there.
class WebhookCreate(BaseModel):
    name: str
    url: HttpUrl
    events: List[str]
    secret: Optional[str] = None
    headers: Optional[Dict[str, str]] = {}
    active: bool = True
    retry_count: int = 3
    timeout_seconds: int = 30


class WebhookUpdate(BaseModel):
    name: Optional[str] = None
    url: Optional[HttpUrl] = None
    events: Optional[List[str]] = None
    secret: Optional[str] = None
    headers: Optional[Dict[str, str]] = None
    active: Optional[bool] = None
    retry_count: Optional[int] = None
    timeout_seconds: Optional[int] = None


class WebhookResponse(BaseModel):
    id: str
    company_id: str
    name: str
    url: str
    events: List[str]
    active: bool
    created_at: str
    updated_at: str

    class Config:
        from_attributes = True


# What the guide's other answers and tables say, as models of the same kind.
class WebhookDelivery(BaseModel):
    """Section 1: the columns of `webhook_deliveries`."""

    id: str
    webhook_id: str
    event_type: str
    payload: Any
    response_status: Optional[int]
    response_body: Optional[str]
    attempts: int
    delivered_at: Optional[str]
    created_at: str


class Tested(BaseModel):
    success: bool
    message: str


class Message(BaseModel):
    message: str


class Failure(BaseModel):
    """What FastAPI makes of the guide's `HTTPException(status_code=404, detail=…)`."""

    detail: str


class Guide:
    """The calls of section 2."""

    def __init__(self, base, key):
        self.base = base.rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {key}"

    def call(self, method, path, model, body=None, status=200):
        text = None if body is None else body.model_dump_json(exclude_unset=True)
        headers = {} if text is None else {"Content-Type": "application/json"}
        answer = self.session.request(
            method, f"{self.base}{path}", data=text, headers=headers, timeout=TIMEOUT_SECONDS
        )
        assert answer.status_code == status, f"{method} {path}: {answer.status_code}: {answer.text}"
        return TypeAdapter(model).validate_json(answer.content, strict=True)

    def list(self):
        return self.call("GET", "/v1/webhooks", List[WebhookResponse])

    def create(self, webhook: WebhookCreate):
        return self.call("POST", "/v1/webhooks", WebhookResponse, webhook)

    def update(self, webhook_id, change: WebhookUpdate):
        return self.call("PUT", f"/v1/webhooks/{webhook_id}", WebhookResponse, change)

    def delete(self, webhook_id):
        return self.call("DELETE", f"/v1/webhooks/{webhook_id}", Message)

    def deliveries(self, webhook_id, limit=50):
        return self.call("GET", f"/v1/webhooks/{webhook_id}/deliveries?limit={limit}", List[WebhookDelivery])

    def test(self, webhook_id):
        return self.call("POST", f"/v1/webhooks/{webhook_id}/test", Tested)


def registers_and_lists(guide, receiver):
    before = {webhook.id for webhook in guide.list()}
    # The guide's own words; everything it leaves out has the guide's defaults.
    made = guide.create(
        WebhookCreate(
            name="Discord Bot Integration",
            url=receiver,
            events=["ticket.created", "ticket.updated", "machine.registered", "alert.triggered"],
            secret="your_secure_webhook_secret",
        )
    )
    assert made.name == "Discord Bot Integration" and made.active and made.url == receiver, made
    assert made.events == ["ticket.created", "ticket.updated", "machine.registered", "alert.triggered"], made
    assert uuid.UUID(made.id) and uuid.UUID(made.company_id), made
    assert datetime.fromisoformat(made.created_at.replace("Z", "+00:00")).tzinfo is not None, made
    listed = {webhook.id: webhook for webhook in guide.list()}
    assert listed.keys() == before | {made.id}, listed
    assert listed[made.id] == made, (listed[made.id], made)
    return made


def changes_what_it_names(guide, made):
    changed = guide.update(made.id, WebhookUpdate(events=["ticket.*"], retry_count=5))
    assert changed.events == ["ticket.*"], changed
    assert (changed.name, changed.url, changed.active) == (made.name, made.url, made.active), changed
    inactive = guide.update(made.id, WebhookUpdate(active=False))
    assert not inactive.active and inactive.events == ["ticket.*"], inactive
    assert guide.update(made.id, WebhookUpdate(active=True)).active
    # Every field at once, as a form would send it.
    whole = WebhookUpdate(
        name="Bot", url=made.url, events=["ticket.created"], secret="another_secret_of_32_characters_",
        headers={"X-Custom": "1"}, active=True, retry_count=3, timeout_seconds=30,
    )
    assert guide.update(made.id, whole).name == "Bot"


def tests_and_reads_deliveries(guide, made):
    tested = guide.test(made.id)
    assert tested.success and tested.message, tested
    end = time.monotonic() + 30
    while True:
        deliveries = guide.deliveries(made.id)
        if deliveries and deliveries[0].delivered_at:
            break
        assert time.monotonic() < end, deliveries
        time.sleep(0.05)
    newest = deliveries[0]
    assert (newest.webhook_id, newest.event_type, newest.attempts) == (made.id, "webhook.test", 1), newest
    assert newest.response_status == 200, newest
    payload = newest.payload
    assert payload["event_type"] == "webhook.test" and payload["company_id"] == made.company_id, payload
    assert payload["data"]["message"] == "This is a test webhook", payload
    assert payload["data"]["webhook_id"] == made.id and isinstance(payload["timestamp"], int), payload
    assert guide.deliveries(made.id, limit=1) == [newest]


def deletes(guide, made):
    assert guide.delete(made.id).message == "Webhook deleted successfully"
    assert made.id not in {webhook.id for webhook in guide.list()}
    gone = (
        ("PUT", f"/v1/webhooks/{made.id}", WebhookUpdate(name="x")),
        ("DELETE", f"/v1/webhooks/{made.id}", None),
        ("POST", f"/v1/webhooks/{made.id}/test", None),
        ("GET", f"/v1/webhooks/{uuid.uuid4()}/deliveries", None),
    )
    for method, path, body in gone:
        failure = guide.call(method, path, Failure, body, status=404)
        assert failure.detail == "Webhook not found", failure


def main(base, key, receiver):
    guide = Guide(base, key)
    made = registers_and_lists(guide, receiver)
    changes_what_it_names(guide, made)
    tests_and_reads_deliveries(guide, made)
    deletes(guide, made)
    print("the guide's client is content")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
