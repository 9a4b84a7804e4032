"""Publishes messages whose headers no client library would write: nested to the limit of a frame, or named by bytes.

Standard input: {"url": …, "messages": [{"exchange", "routing_key", "type", "headers", "body", "raw"}, …]}. `raw` is one of
`array` and `table` (a header `deep` with as many levels as a frame holds) and `name` (a header whose name is not UTF-8).
Each message is confirmed by the broker before the program ends.
"""

import asyncio
import json
import struct
import sys

import aio_pika
from pamqp import commands, encode

# RabbitMQ's default frame_max, less the frame's own 8 bytes and room for the other headers and properties.
HEADER_BYTES = 131_072 - 8 - 1_024


class Raw:
    """A header's value as it stands on the wire, with its type."""

    def __init__(self, wire):
        self.wire = wire


class BytesName(str):
    """A header's name that is not UTF-8."""

    def encode(self, *_):
        return b"caf\xe9"


def nested(kind, name, levels):
    """Values of one type inside each other; an entry of a table has a name."""
    each = len(kind) + 4 + len(name)
    end = b"V"
    # Each begins with the length of what stands in it, and the outermost comes first.
    inner = (len(name) + len(end) + each * depth for depth in reversed(range(levels)))
    return Raw(b"".join(kind + struct.pack(">I", length) + name for length in inner) + end)


RAW = {
    "array": lambda: {"deep": nested(b"A", b"", HEADER_BYTES // 5)},
    "table": lambda: {"deep": nested(b"F", b"\x01k", HEADER_BYTES // 7)},
    "name": lambda: {BytesName("name"): "text"},
}


async def main(order):
    encode_value = encode.encode_table_value
    encode.encode_table_value = lambda value: value.wire if isinstance(value, Raw) else encode_value(value)
    connection = await aio_pika.connect(order["url"])
    channel = await connection.channel()
    for message in order["messages"]:
        underlying = await channel.get_underlay_channel()
        await underlying.basic_publish(
            message["body"].encode(),
            exchange=message["exchange"],
            routing_key=message["routing_key"],
            mandatory=True,
            properties=commands.Basic.Properties(
                headers=message["headers"] | RAW[message["raw"]](),
                message_type=message["type"],
                delivery_mode=2,
            ),
        )
    await connection.close()


asyncio.run(main(json.load(sys.stdin)))
