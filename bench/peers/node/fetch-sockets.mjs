// Peer: socket.io 4 with its Redis adapter, `fetchSockets`.
//
// Technique: scatter and gather over Redis pub/sub. The node that got the HTTP request publishes
// one request, and every other node answers with all its sockets of the room. The adapter waits for
// as many answers as the channel has subscribers.

import { createAdapter } from '@socket.io/redis-adapter';
import { createClient } from 'redis';
import { Server } from 'socket.io';

import { announce, usersServer } from './serve.mjs';

const pub = createClient({ url: process.env.REDIS_URL });
const sub = pub.duplicate();
for (const client of [pub, sub]) {
  client.on('error', (error) => console.error(error.message));
}
await Promise.all([pub.connect(), sub.connect()]);

const server = usersServer(async (room) => {
  const sockets = await io.in(room).fetchSockets();
  return sockets.map(({ id, data }) => ({ id_socket: id, id_user: data.id_user }));
});

const io = new Server(server, {
  // With 16 concurrent callers of a room of 10,000, a slow machine takes longer than the default of 5 seconds.
  adapter: createAdapter(pub, sub, { key: 'fetch-sockets', requestsTimeout: 60_000 }),
  transports: ['websocket'],
  serveClient: false,
});

io.on('connection', (socket) => {
  const { id_user, room } = socket.handshake.query;
  socket.data.id_user = id_user;
  socket.join(room);
});

// The adapter does not wait for its subscriptions. Redis answers in order, so they exist as soon as
// a later command on the same connection is answered.
await sub.ping();
announce(server);
