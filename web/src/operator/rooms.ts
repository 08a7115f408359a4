// The busiest rooms, each a button that calls its roll, and the roll of one room.

import { byId, el, setName, setText } from "../dom";
import { field } from "../fields";
import { KeyedList } from "../keyed";
import { roomFault } from "../names";
import { askRollForOperators, type Roll, type User } from "../roll";
import { clockTime, completeness, counted, millis } from "../words";
import type { BusyRoom, Status } from "./status";
import { count } from "./words";

const MAX_ROWS = 200;

export class BusiestRooms {
  private readonly rows: KeyedList<BusyRoom>;

  constructor(choose: (room: string) => void) {
    const make = (busy: BusyRoom): HTMLElement => makeRoom(busy, choose);
    this.rows = new KeyedList<BusyRoom>(byId("room-rows"), ({ room }) => room, make, updateRoom);
  }

  show({ busiest_rooms }: Status): void {
    this.rows.show(busiest_rooms);
    byId("rooms-table").hidden = busiest_rooms.length === 0;
    byId("no-rooms").hidden = busiest_rooms.length > 0;
  }
}

function makeRoom({ room }: BusyRoom, choose: (room: string) => void): HTMLElement {
  const button = el("button", "room-name", el("bdi", "name"));
  button.type = "button";
  button.addEventListener("click", () => choose(room));
  const name = el("th", "", button);
  name.setAttribute("scope", "row");
  return el("tr", "", name, el("td", "number sockets"), el("td", "number on"));
}

function updateRoom(row: HTMLElement, { room, sockets, most, nodes }: BusyRoom): void {
  setName(row.querySelector<HTMLElement>(".name")!, room);
  setText(row.querySelector(".sockets")!, most > sockets ? `${count(sockets)}–${count(most)}` : count(sockets));
  setText(row.querySelector(".on")!, count(nodes));
}

/** Calls the roll of the room in the field. */
export class RoomPanel {
  private readonly form = byId<HTMLFormElement>("call");
  private readonly input = byId<HTMLInputElement>("room");
  private readonly room = field("room", roomFault);
  private readonly said = byId("said");
  private readonly rows = new KeyedList<User>(byId("user-rows"), ({ id_socket }) => id_socket, makeUser, updateUser);
  private asked = 0;

  constructor() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.room.check()) void this.call(this.room.value());
      else this.room.focus();
    });
  }

  choose(room: string): void {
    this.input.value = room;
    this.room.check();
    void this.call(room);
    byId("who").scrollIntoView({ block: "nearest" });
  }

  private async call(room: string): Promise<void> {
    const mine = (this.asked += 1);
    this.say("Calling the roll…", "asking");
    try {
      const roll = await askRollForOperators(room);
      if (mine === this.asked) this.show(roll);
    } catch (error) {
      if (mine !== this.asked) return;
      this.say(error instanceof Error ? error.message : String(error), "false");
      this.showRows([]);
    }
  }

  private show(roll: Roll): void {
    const people = new Set(roll.users.map((user) => user.id_user)).size;
    const found = `${counted(people, "person", "people")}, ${counted(roll.users.length, "socket", "sockets")}`;
    const when = `${clockTime(roll.as_of)}, ${millis(roll.took_ms)}`;
    this.say(`${roll.room}: ${found}; ${completeness(roll)} (${when}).`, String(roll.complete));
    this.showRows(roll.users);
  }

  private showRows(users: User[]): void {
    const order = new Intl.Collator("en", { numeric: true });
    const sorted = [...users].sort((a, b) => order.compare(a.id_user, b.id_user));
    this.rows.show(sorted.slice(0, MAX_ROWS));
    byId("users-box").hidden = users.length === 0;
    const hidden = users.length - MAX_ROWS;
    byId("more").hidden = hidden <= 0;
    setText(byId("more"), `and ${counted(Math.max(0, hidden), "more socket", "more sockets")}, not listed here`);
  }

  private say(text: string, complete: string): void {
    this.said.hidden = false;
    this.said.dataset.complete = complete;
    setText(this.said, text);
  }
}

function makeUser(): HTMLElement {
  const user = el("th", "", el("bdi", "name user"));
  user.setAttribute("scope", "row");
  return el("tr", "", user, el("td", "", el("code", "socket")), el("td", "", el("bdi", "name node")));
}

function updateUser(row: HTMLElement, { id_user, id_socket, node }: User): void {
  setName(row.querySelector<HTMLElement>(".user")!, id_user);
  setText(row.querySelector(".socket")!, id_socket);
  setName(row.querySelector<HTMLElement>(".node")!, node);
}
