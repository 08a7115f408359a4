// A DNS server with one name, which replaces the one of a container engine. It returns the current addresses of a
// scaled service.

import dgram from "node:dgram";

import { RECURSION_DESIRED, RECURSION_AVAILABLE, decode, encode } from "dns-packet";

export class NameServer {
  /** `addresses`: called for each query, returns the addresses of the name. */
  static async start(name, addresses) {
    const server = new NameServer(name, addresses);
    await new Promise((done, fail) => server.socket.once("error", fail).bind(0, "127.0.0.1", done));
    const { address, port } = server.socket.address();
    server.address = `${address}:${port}`;
    return server;
  }

  constructor(name, addresses) {
    this.socket = dgram.createSocket("udp4");
    this.socket.on("message", (message, from) => {
      const { id, questions } = decode(message);
      const asked = questions[0].name === name && questions[0].type === "A" ? addresses() : [];
      const answers = asked.map((data) => ({ type: "A", name, ttl: 1, data }));
      const flags = RECURSION_DESIRED | RECURSION_AVAILABLE;
      this.socket.send(encode({ type: "response", id, flags, questions, answers }), from.port, from.address);
    });
  }

  async stop() {
    await new Promise((done) => this.socket.close(done));
  }
}
