// The curl line that makes the same request in a terminal, with a button that copies it. If the
// clipboard is not accessible, the line is selected instead, so that the user can copy it.

import { byId, setText } from "./dom";
import { encodeName } from "./names";
import { myToken } from "./token";

const SAID_MS = 2000;

export function showCurl(room: string): void {
  const insecure = location.protocol === "https:" ? "-k " : "";
  // The line is too long for a phone; `wbr` marks good positions for a line break. It contains a
  // variable instead of the token, so that the token is not in the shell's history.
  const bearer = myToken() === null ? "" : `-H "Authorization: Bearer $TOKEN" `;
  const parts = [`curl ${insecure}${bearer}${location.origin}`, `/${encodeName(room)}`, "/users"];
  byId("curl").replaceChildren(...parts.flatMap((part) => [document.createElement("wbr"), part]));
}

export function enableCopy(): void {
  const line = byId("curl");
  const button = byId<HTMLButtonElement>("copy");
  const label = button.textContent ?? "";
  let timer = 0;

  button.addEventListener("click", async () => {
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(line.textContent ?? "");
    } catch {
      window.getSelection()?.selectAllChildren(line);
      said = "Selected";
    }
    setText(button, said);
    window.clearTimeout(timer);
    timer = window.setTimeout(() => setText(button, label), SAID_MS);
  });
}
