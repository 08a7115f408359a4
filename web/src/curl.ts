// The line that asks the same question from a terminal, with a button that copies
// it. Where the clipboard is out of reach the line is selected instead, so that
// the reader's own copy key does the rest.

import { byId, setText } from "./dom";
import { encodeName } from "./names";
import { myToken } from "./token";

const SAID_MS = 2000;

export function showCurl(room: string): void {
  const insecure = location.protocol === "https:" ? "-k " : "";
  // The line is long for a phone: these are the places where it breaks best.
  // The token itself would stand in the shell's history.
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
