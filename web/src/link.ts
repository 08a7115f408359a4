// The Socket.IO connection of the page, as a state and a sentence. The client reconnects after a
// lost transport. After a refusal, or a disconnect by the server, only the user can retry.

import { io } from "socket.io-client";
import { myToken, tokenAdvice } from "./token";

export type State = "connecting" | "connected" | "reconnecting" | "disconnected" | "refused";

export interface Link {
  state: State;
  /** The id of the socket, while it is connected. */
  socket: string | undefined;
  /** A sentence about the state, if one is needed. */
  note: string;
  /** Whether only the user can start the next attempt. */
  retry: boolean;
}

/**
 * Joins the room, and calls `changed` on every change of state. Returns a function that retries.
 * With a token, the user id comes from the token.
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
