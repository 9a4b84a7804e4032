"""Publishes CloudEvents as the SDK of their makers writes them, in each form that it knows for RabbitMQ.

    AMQP_URL=… EVENTS_EXCHANGE=… python tests/interop/cloud_events.py COMPANY

Prints, a JSON line for each, its form and its id. The data is the same in all of them.
"""

import asyncio
import json
import os
import sys
from datetime import datetime, timezone

import aio_pika
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.v1.event import CloudEvent

DATA = {"title": "Größe 🖨️ \u0000", "n": 1.5, "z": [1, 2], "a": None}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def event(form, company):
    attributes = {
        "type": "ticket.created",
        "source": "https://xtsystems.example/tickets",
        "id": form,
        "time": datetime.now(timezone.utc),
        "datacontenttype": "application/json",
        "companyid": company,
        "traceparent": TRACE,
    }
    return CloudEvent(attributes=attributes, data=DATA)


def of_amqp(message):
    """The SDK's AMQP 1.0 message as a client of RabbitMQ sends it: its application properties are headers."""
    return message.application_data, message.properties["content-type"], message.application_properties


def of_rabbitmq(message):
    return message.body, message.content_type, message.headers


def colons(message):
    """With the prefix that the AMQP binding names first; the SDK writes the other."""
    body, content_type, headers = of_amqp(message)
    return body, content_type, {name.replace("cloudEvents_", "cloudEvents:"): value for name, value in headers.items()}


FORMS = {
    "amqp-structured": lambda event: of_amqp(amqp.to_structured_event(event)),
    "amqp-binary": lambda event: of_amqp(amqp.to_binary_event(event)),
    "amqp-binary-colons": lambda event: colons(amqp.to_binary_event(event)),
    "rabbitmq-structured": lambda event: of_rabbitmq(rabbitmq.to_structured_event(event)),
    "rabbitmq-binary": lambda event: of_rabbitmq(rabbitmq.to_binary_event(event)),
}


async def main(company):
    connection = await aio_pika.connect(os.environ["AMQP_URL"])
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(os.environ["EVENTS_EXCHANGE"])
        for form, encode in FORMS.items():
            body, content_type, headers = encode(event(form, company))
            message = aio_pika.Message(
                body,
                content_type=content_type,
                headers=headers,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            # Twice: a repeat is the same event.
            for _ in range(2):
                await exchange.publish(message, routing_key="ticket.created", timeout=10)
            print(json.dumps({"form": form, "data": DATA}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
