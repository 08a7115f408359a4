"""The official Python client of Socket.IO for asyncio, driven line by line, as client.py drives the other one."""

import asyncio
import json
import sys

import socketio

PATIENCE = 20


class Session:
    def __init__(self):
        self.client = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2)

    async def connect(self, url, transports=None):
        try:
            await self.client.connect(url, transports=transports, wait_timeout=PATIENCE)
        except socketio.exceptions.ConnectionError as error:
            return {"error": str(error)}
        return {"id": self.client.get_sid(), "transport": self.client.transport()}

    async def call(self, event, room):
        return {"ack": await self.client.call(event, room, timeout=PATIENCE)}

    async def disconnect(self):
        await self.client.disconnect()
        return {"connected": self.client.connected}


async def main():
    session = Session()
    orders = {"connect": session.connect, "call": session.call, "disconnect": session.disconnect}
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        answer = await orders[order.pop("do")](**order)
        print(json.dumps(answer), flush=True)
    await session.client.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
