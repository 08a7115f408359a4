"""The official Python client of Socket.IO, driven line by line.

Reads one JSON command per line from standard input, and writes one line of JSON for each. Ends with its input.
"""

import json
import sys

import socketio

TIMEOUT = 20


class Session:
    def __init__(self):
        self.client = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.2)
        self.client.on("connect_error", self.refuse)
        self.refusal = None

    def refuse(self, error):
        self.refusal = error

    def connect(self, url, auth=None, transports=None):
        self.refusal = None
        try:
            self.client.connect(url, auth=auth, transports=transports, wait_timeout=TIMEOUT)
        except socketio.exceptions.ConnectionError as error:
            return {"refusal": self.refusal, "error": str(error)}
        return {"id": self.client.get_sid(), "transport": self.client.transport()}

    def call(self, event, room):
        return {"ack": self.client.call(event, room, timeout=TIMEOUT)}

    def disconnect(self):
        self.client.disconnect()
        return {"connected": self.client.connected}

    def id(self):
        return {"id": self.client.get_sid()}


def main():
    session = Session()
    commands = {"connect": session.connect, "call": session.call, "disconnect": session.disconnect, "id": session.id}
    for line in sys.stdin:
        command = json.loads(line)
        answer = commands[command.pop("do")](**command)
        print(json.dumps(answer), flush=True)
    session.client.disconnect()


if __name__ == "__main__":
    main()
