"""The official Python client of Socket.IO for asyncio. It reads commands line by line, as client.py does."""

import asyncio
import json
import sys

import socketio

TIMEOUT = 20


class Session:
    def __init__(self):
        self.client = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2)

    async def connect(self, url, transports=None):
        try:
            await self.client.connect(url, transports=transports, wait_timeout=TIMEOUT)
        except socketio.exceptions.ConnectionError as error:
            return {"error": str(error)}
        return {"id": self.client.get_sid(), "transport": self.client.transport()}

    async def call(self, event, room):
        return {"ack": await self.client.call(event, room, timeout=TIMEOUT)}

    async def disconnect(self):
        await self.client.disconnect()
        return {"connected": self.client.connected}


async def main():
    session = Session()
    commands = {"connect": session.connect, "call": session.call, "disconnect": session.disconnect}
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        answer = await commands[command.pop("do")](**command)
        print(json.dumps(answer), flush=True)
    await session.client.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
