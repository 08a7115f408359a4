// The Socket.IO connection that puts the reader in the room, told as one state
// and one plain sentence. The client reconnects by itself after a lost transport;
// after a refusal, or when the server hangs up, only the reader can ask again.

import { io } from "socket.io-client";
import { myToken, tokenAdvice } from "./token";

export type State = "connecting" | "connected" | "reconnecting" | "disconnected" | "refused";

export interface Link {
  state: State;
  /** The id of the socket, while there is one. */
  socket: string | undefined;
  /** What there is to say about the state, or nothing. */
  note: string;
  /** Whether only the reader can start the next attempt. */
  retry: boolean;
}

/**
 * Joins the room; `changed` is called on every change of state. Gives back a way to ask again.
 * With a token it is that which says who the reader is.
 */
export function join(room: string, idUser: string, changed: (link: Link) => void): () => void {
  const token = myToken();
  const auth = token === null ? { room, id_user: idUser } : { room, token };
  const socket = io({ transports: ["websocket"], auth });
  let wasConnected = false;

  const tell = (state: State, note = "", retry = false): void => {
    changed({ state, socket: socket.id, note, retry });
  };

  socket.on("connect", () => {
    wasConnected = true;
    tell("connected");
  });

  socket.on("disconnect", () => {
    if (socket.active) tell("reconnecting", "The connection was lost. Connecting again.");
    else tell("disconnected", "The server closed the connection.", true);
  });

  socket.on("connect_error", (error) => {
    if (!socket.active) tell("refused", tokenAdvice(error.message) || error.message, true);
    else tell(wasConnected ? "reconnecting" : "connecting", "The server cannot be reached. Still trying.");
  });

  tell("connecting");
  return () => {
    tell("connecting");
    socket.connect();
  };
}
