"""The steps of the demonstration, in order. If a step fails, the program prints a sentence and exits with code 1."""

from __future__ import annotations

import signal
import sys
import uuid
from datetime import datetime

from .world import Failed, Receiver, World, eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TICKET = {"id": 4711, "title": "Printer is on fire", "priority": "high", "status": "open"}


def main() -> int:
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, lambda *_: sys.exit(130))
    try:
        with World() as world:
            tell(world)
    except Failed as failed:
        print(f"demo: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    say("End of the demo. Its service, receivers, queues and database have been removed.")
    return 0


def tell(world: World) -> None:
    head("A company, two receivers and the service")
    say(f"Everything is created for this demo and removed at its end: database {world.database}, queues {world.name}.*")
    world.command("migrate")
    service = world.service()
    company = str(uuid.uuid4())
    world.key(company)
    say("The API answers, and the company has its first key, made with `xtwebhooks keys create --scope admin`.")
    bot = Receiver(world, "discord-bot", SECRET, "200")
    shop = Receiver(world, "customer", SECRET, "500,500,500,200")
    register(world, company, bot)
    shop_webhook = register(world, company, shop)
    say("discord-bot answers 200. customer fails: it answers 500 three times before it recovers.")

    head("XTSystems publishes an event")
    event = world.publish(company, "ticket.created", TICKET)
    shown(f"python examples/publish.py {company[:8]}… ticket.created '…'", f"confirmed by the broker: event {event}")

    head("It arrives, signed")
    first = arrived(bot, 1)
    say(f"The receiver has verified the signature. The body is:\n  {first['body']}")

    head("The failing receiver gets three attempts: retries after 1 s and 2 s")
    failed = failing(shop, first["webhook_id"])

    head("The delivery is given up: a dead letter")
    letters = eventually("a dead letter", lambda: world.command("dead-letters", "list", expect_json=True))
    if [letter["id"] for letter in letters] != [failed["delivery"]]:
        raise Failed(f"expected the dead letter of delivery {failed['delivery']}, found {letters}")
    show(world, "dead-letters", "list")

    head("The receiver has recovered: a replay")
    show(world, "replay", failed["delivery"], "--wait")
    again = arrived(shop, 1)
    if (again["webhook_id"], again["trigger"], again["status"]) != (first["webhook_id"], "replay", 200):
        raise Failed(f"expected a replay with the same webhook-id, got {again}")
    say("The webhook-id is the same as before, so a receiver that had already processed the event would recognise it.")

    head("The delivery history")
    show(world, "deliveries", "list", "--webhook", shop_webhook)
    show(world, "deliveries", "show", failed["delivery"])

    world.stop(service)


def register(world: World, company: str, receiver: Receiver) -> str:
    """Creates a webhook as in XTSystems' integration guide."""
    webhook = {
        "name": receiver.name,
        "url": f"{receiver.url}/webhooks/xtsystems",
        "events": ["ticket.created", "ticket.updated"],
        "secret": SECRET,
    }
    made = world.api("POST", "/v1/webhooks", webhook)
    if (made["company_id"], made["name"], made["active"]) != (company, receiver.name, True):
        raise Failed(f"expected a webhook {receiver.name} of company {company}, got {made}")
    shown(f"curl -X POST $XTWEBHOOKS_URL/v1/webhooks -d '{{\"name\": \"{receiver.name}\", …}}'", made["id"])
    return made["id"]


def arrived(receiver: Receiver, attempt: int) -> dict:
    arrival = receiver.next(f"attempt {attempt}")
    if arrival["verified"] is not True or arrival["attempt"] != attempt:
        raise Failed(f"expected a verified attempt {attempt} at {receiver.name}, got {arrival}")
    say(
        f"{receiver.name} received {arrival['event']}: attempt {attempt}, verified, answered {arrival['status']}, "
        f"webhook-id {arrival['webhook_id']}"
    )
    return arrival


def failing(receiver: Receiver, webhook_id: str) -> dict:
    before = arrived(receiver, 1)
    for attempt, wait in ((2, 1), (3, 2)):
        arrival = arrived(receiver, attempt)
        waited = (at(arrival) - at(before)).total_seconds()
        # The wait begins when the response is recorded, and a busy machine may be slow.
        if not wait - 0.1 <= waited <= wait + 10:
            raise Failed(f"expected attempt {attempt} {wait} s after the previous one, but it came after {waited:.1f} s")
        if arrival["webhook_id"] != webhook_id:
            raise Failed(f"attempt {attempt} has a different webhook-id: {arrival['webhook_id']}")
        say(f"  {waited:.1f} s after the previous attempt")
        before = arrival
    return before


def at(arrival: dict) -> datetime:
    # Python before 3.11 reads at most six digits of a second, and no Z.
    return datetime.fromisoformat(arrival["time"][:19]).replace(microsecond=int((arrival["time"][20:-1] + "000000")[:6]))


def show(world: World, *arguments: str) -> None:
    shown(f"xtwebhooks {' '.join(arguments)}", world.command(*arguments))


def shown(command: str, output: str) -> None:
    say(f"$ {command}\n" + "\n".join(f"  {line}" for line in output.splitlines()))


def head(text: str) -> None:
    print(f"\n── {text}", flush=True)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
