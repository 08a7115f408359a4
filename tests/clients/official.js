// The official JavaScript clients of Socket.IO 2, 3 and 4, by each transport that a node accepts from them.

import io2 from "socket.io-client-v2";
import { io as io3 } from "socket.io-client-v3";
import { io as io4 } from "socket.io-client-v4";

export const clients = [
  { name: "socket.io-client 4", io: io4, transport: "websocket" },
  { name: "socket.io-client 4, polling", io: io4, transport: "polling" },
  { name: "socket.io-client 3", io: io3, transport: "websocket" },
  { name: "socket.io-client 3, polling", io: io3, transport: "polling" },
  { name: "socket.io-client 2", io: io2, transport: "websocket" },
];
