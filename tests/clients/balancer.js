// A balancer without sticky sessions: each request goes to the next node, whatever its connection.

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
    /** The number of requests by the name of the node. */
    this.requests = new Map();
    this.sockets = new Set();
    this.server = http.createServer((request, response) => this.forward(request, response));
    this.server.on("upgrade", (request, socket, head) => this.pipe(request, socket, head));
    this.server.on("connection", (socket) => {
      this.sockets.add(socket);
      socket.once("close", () => this.sockets.delete(socket));
    });
  }

  node(turn) {
    const node = this.nodes[turn % this.nodes.length];
    this.requests.set(node.name, (this.requests.get(node.name) ?? 0) + 1);
    const [host, port] = node.listen.split(":");
    return { host, port };
  }

  /**
   * Retries on the next node like nginx with `proxy_next_upstream`: if a request fails before an answer, is idempotent
   * or was not sent, or if the answer is 503.
   */
  async forward(request, response) {
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
