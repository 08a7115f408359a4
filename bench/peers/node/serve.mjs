// The HTTP server of both Node peers: `GET /{room}/users`, and the line that announces the port.
// Each peer supplies the function that finds the users of a room.

import { createServer } from 'node:http';

/**
 * An HTTP server, not yet listening, that answers with the rows of `usersOf(room)`.
 * If the promise is rejected, the answer is 503, never a part of the room.
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

/** Listens on 127.0.0.1 and prints the port; the benchmark waits for that line. */
export function announce(server) {
  server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
    console.log(`listening ${server.address().port}`);
  });
}
