// The room page: reads the room and the user from the address, joins the room, and refreshes the
// roll. This file only connects the parts.

import { AnswerPanel } from "./answer";
import { enableCopy, showCurl } from "./curl";
import { byId, setName, setText } from "./dom";
import { field } from "./fields";
import { join, type Link } from "./link";
import { encodeName, roomFault, roomOfPath, userFault } from "./names";
import { askRoll, everySecond, type Roll } from "./roll";
import { RollTable } from "./table";
import { myToken, withToken } from "./token";

/** Longer names are displayed in a smaller size. */
const LONG_NAME = 32;

const NOTHING_YET = "—";

function start(): void {
  const room = roomOfPath(location.pathname);
  const fault = room === null ? "The address holds a broken room name." : roomFault(room);
  if (room === null || fault !== null) {
    setText(byId("no-room-fault"), fault ?? "");
    byId("no-room").hidden = false;
    return;
  }

  showRoomName(room);
  const idUser = new URLSearchParams(location.search).get("id_user");
  if (myToken() !== null) enter(room, "");
  else if (idUser === null || userFault(idUser) !== null) askName(idUser);
  else enter(room, idUser);
}

function showRoomName(room: string): void {
  const name = byId("room-name");
  setName(name, room);
  name.toggleAttribute("data-long", room.length > LONG_NAME);
  document.title = `${room} · Rollcall`;
  byId("room-head").hidden = false;
  byId<HTMLAnchorElement>("change").href = withToken(`/?room=${encodeName(room)}`);
}

function askName(given: string | null): void {
  const form = byId<HTMLFormElement>("ask");
  const input = byId<HTMLInputElement>("id_user");
  const name = field("id_user", userFault);
  form.hidden = false;
  if (given) {
    input.value = given;
    name.check();
  }
  name.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (name.check()) location.assign(`?id_user=${encodeName(name.value())}`);
    else name.focus();
  });
}

/** With a token, the user id is unknown until the roll contains it. */
function enter(room: string, idUser: string): void {
  byId("page").classList.remove("lone");
  byId("room").hidden = false;
  setName(byId("my-name"), idUser || NOTHING_YET);
  if (idUser) byId<HTMLAnchorElement>("change").href += `&id_user=${encodeName(idUser)}`;
  showCurl(room);
  enableCopy();

  const table = new RollTable();
  const answer = new AnswerPanel();
  let link: Link | undefined;
  let roll: Roll | undefined;

  const showRoll = (): void => {
    if (roll) table.show(roll.users, link?.socket);
    const mine = link?.socket && roll?.users.find((user) => user.id_socket === link?.socket);
    setText(byId("my-node"), mine ? mine.node : NOTHING_YET);
    if (mine) setName(byId("my-name"), mine.id_user);
  };

  const refresh = everySecond(async () => {
    try {
      roll = await askRoll(room);
      answer.show(roll);
      showRoll();
    } catch (error) {
      answer.showFault(error instanceof Error ? error.message : String(error));
    }
  });

  const retry = join(room, idUser, (now) => {
    link = now;
    showLink(now);
    showRoll();
    if (now.state === "connected") refresh();
  });
  byId("retry").addEventListener("click", retry);
}

function showLink({ state, socket, note, retry }: Link): void {
  byId("you").dataset.state = state;
  setText(byId("state"), state);
  setText(byId("my-socket"), socket ?? NOTHING_YET);
  setText(byId("note"), note);
  byId("note").hidden = note === "";
  byId("retry").hidden = !retry;
}

start();
