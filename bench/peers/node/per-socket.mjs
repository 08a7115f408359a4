// Peer: socket.io 2 with socket.io-redis 5, one request per socket.
//
// Technique: one cluster-wide request returns the ids of the room. One more request for each id asks
// every node for the user of that socket. All these requests are in flight at once, so the cost is
// the number of messages (ids × nodes), not a chain of round trips.

import { promisify } from 'node:util';

import socketIo from 'socket.io-2';
import redisAdapter from 'socket.io-redis';

import { announce, usersServer } from './serve.mjs';

const server = usersServer(async (room) => {
  const ids = await clients([room]);
  const users = await Promise.all(ids.map(userOf));
  return ids
    .map((id_socket, i) => ({ id_socket, id_user: users[i] }))
    .filter(({ id_user }) => id_user !== undefined);
});

const io = socketIo(server, {
  adapter: redisAdapter(process.env.REDIS_URL, { key: 'per-socket' }),
  transports: ['websocket'],
  serveClient: false,
});
const { adapter, connected } = io.of('/');
const clients = promisify(adapter.clients.bind(adapter));
const customRequest = promisify(adapter.customRequest.bind(adapter));

adapter.on('error', (error) => console.error(error.message));

adapter.customHook = (id, reply) => reply(connected[id]?.handshake.query.id_user ?? null);

/** The user of a socket anywhere in the cluster; undefined if it left after it was listed. */
async function userOf(id) {
  const replies = await customRequest(id);
  return replies.find((reply) => reply !== null);
}

io.on('connection', (socket) => socket.join(socket.handshake.query.room));

// The adapter does not wait for its subscriptions. Redis answers in order, so they exist as soon as
// a later command on the same connection is answered.
await promisify(adapter.subClient.ping.bind(adapter.subClient))();
announce(server);
