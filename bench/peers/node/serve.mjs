// The HTTP edge that both Node peers share: `GET /{room}/users` and the line that announces
// the port. How the members of a room are found is the business of each peer.

import { createServer } from 'node:http';

/**
 * An HTTP server, not yet listening, that answers with the rows `usersOf(room)` resolves to.
 * A rejection is answered with 503, never with a part of the room.
 */
export function usersServer(usersOf) {
  return createServer(async (request, response) => {
    const [, room] = request.url.match(/^\/([^/?]+)\/users$/) ?? [];
    if (request.method !== 'GET' || !room) {
      response.writeHead(404).end();
      return;
    }
    try {
      const rows = await usersOf(decodeURIComponent(room));
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(rows));
    } catch (error) {
      console.error(error);
      response.writeHead(503).end();
    }
  });
}

/** Listens on the loopback and prints the port, the sign that the peer is ready. */
export function announce(server) {
  server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
    console.log(`listening ${server.address().port}`);
  });
}
