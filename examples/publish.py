"""Publishes an event as XTSystems does: persistent and confirmed by the broker. It declares nothing.

    pip install aio-pika
    AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f python examples/publish.py COMPANY ticket.created '{"id": 1}'

Prints the event's id. XTSystems itself opens the connection, the channel and the exchange once, at its start, and calls
`publish` for each event.
"""

import asyncio
import json
import os
import sys
import time
import uuid

import aio_pika


async def publish(exchange, company_id, event_type, data, event_id=None):
    """Returns the event's id once the broker has confirmed the event. Raises if the event was refused or reached no
    queue; it can then be published again with the same id, which is ingested only once."""
    event_id = event_id or str(uuid.uuid4())
    happened = int(time.time())
    body = {"event_type": event_type, "data": data, "company_id": company_id, "timestamp": happened}
    message = aio_pika.Message(
        json.dumps(body).encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=event_id,
        timestamp=happened,
    )
    await exchange.publish(message, routing_key=event_type, timeout=10)
    return event_id


async def main(company_id, event_type, data):
    connection = await aio_pika.connect_robust(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"))
    async with connection:
        # A message that reaches no queue raises an error instead of being lost.
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(os.environ.get("EVENTS_EXCHANGE", "xtsystems.events"))
        print(await publish(exchange, company_id, event_type, json.loads(data)))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
