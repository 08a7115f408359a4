// The front page: asks for a room and a name, and opens the room page. Also shows the curl line for
// the room in the field.

import { enableCopy, showCurl } from "./curl";
import { byId } from "./dom";
import { field } from "./fields";
import { encodeName, roomFault, userFault } from "./names";
import { myToken, withToken } from "./token";

const EXAMPLE_ROOM = "Maths";

const form = byId<HTMLFormElement>("enter");
const roomInput = byId<HTMLInputElement>("room");
const userInput = byId<HTMLInputElement>("id_user");
const room = field("room", roomFault);
const user = field("id_user", userFault);

function refreshCurl(): void {
  const name = room.value();
  showCurl(roomFault(name) === null ? name : EXAMPLE_ROOM);
}

// The room page links back to this page with the current names.
const given = new URLSearchParams(location.search);
roomInput.value = given.get("room") ?? roomInput.value;
userInput.value = given.get("id_user") ?? userInput.value;

roomInput.addEventListener("input", refreshCurl);
refreshCurl();
enableCopy();
// With a token, the user id comes from the token.
if (myToken() !== null) userInput.closest<HTMLElement>(".field")!.hidden = true;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const roomFits = room.check();
  const userFits = myToken() !== null || user.check();
  if (!roomFits) room.focus();
  else if (!userFits) user.focus();
  else {
    const query = myToken() === null ? `?id_user=${encodeName(user.value())}` : "";
    location.assign(withToken(`/${encodeName(room.value())}${query}`));
  }
});
