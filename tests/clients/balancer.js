// A balancer that knows no sessions: each request goes to the next node, whichever connection it came in on.

import http from "node:http";
import net from "node:net";

export class Balancer {
  static async start(nodes) {
    const balancer = new Balancer(nodes);
    await new Promise((done, fail) => balancer.server.once("error", fail).listen(0, "127.0.0.1", done));
    balancer.listen = `127.0.0.1:${balancer.server.address().port}`;
    return balancer;
  }

  constructor(nodes) {
    this.nodes = nodes;
    this.turn = 0;
    /** How many requests each node was given, by its name. */
    this.given = new Map();
    this.sockets = new Set();
    this.server = http.createServer((request, response) => this.handOn(request, response));
    this.server.on("upgrade", (request, socket, head) => this.pipe(request, socket, head));
    this.server.on("connection", (socket) => {
      this.sockets.add(socket);
      socket.once("close", () => this.sockets.delete(socket));
    });
  }

  node(turn) {
    const node = this.nodes[turn % this.nodes.length];
    this.given.set(node.name, (this.given.get(node.name) ?? 0) + 1);
    const [host, port] = node.listen.split(":");
    return { host, port };
  }

  /**
   * What breaks before it was answered is tried on the next node if it is harmless or was not sent, and what is answered
   * 503 is in any case: as nginx does where it is told to.
   */
  async handOn(request, response) {
    const body = [];
    for await (const piece of request) body.push(piece);
    const turn = this.turn++;
    const attempt = (left) => {
      const { method, url: path, headers } = request;
      const upstream = http.request({ ...this.node(turn + left), method, path, headers, agent: false }, (answer) => {
        if (answer.statusCode === 503 && left > 1) {
          answer.resume();
          attempt(left - 1);
          return;
        }
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      response.once("close", () => upstream.destroy());
      upstream.on("error", (error) => {
        const again = method === "GET" || error.syscall === "connect";
        if (response.headersSent || response.destroyed) response.destroy();
        else if (again && left > 1) attempt(left - 1);
        else response.writeHead(502).end();
      });
      upstream.end(Buffer.concat(body));
    };
    attempt(this.nodes.length);
  }

  pipe({ method, url, rawHeaders }, socket, head) {
    const upstream = net.connect(this.node(this.turn++));
    const lines = [`${method} ${url} HTTP/1.1`];
    for (let index = 0; index < rawHeaders.length; index += 2) lines.push(`${rawHeaders[index]}: ${rawHeaders[index + 1]}`);
    upstream.write(`${lines.join("\r\n")}\r\n\r\n`);
    upstream.write(head);
    upstream.pipe(socket).pipe(upstream);
    for (const [one, other] of [[upstream, socket], [socket, upstream]]) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
  }

  async stop() {
    for (const socket of this.sockets) socket.destroy();
    await new Promise((done) => this.server.close(done));
  }
}
