// A text field with its own error message: shown when the form is sent, and removed when the value
// becomes valid.

import { byId, setText } from "./dom";

export interface Field {
  /** The name to send. */
  value(): string;
  /** Shows the error, if there is one. Returns whether the name is valid. */
  check(): boolean;
  focus(): void;
}

export function field(id: string, faultOf: (name: string) => string | null): Field {
  const input = byId<HTMLInputElement>(id);
  const message = byId(`${id}-fault`);
  // The keyboards of phones add a space after a completed word, so spaces around the name are removed.
  const value = (): string => input.value.trim();

  const check = (): boolean => {
    const fault = faultOf(value());
    input.setAttribute("aria-invalid", String(fault !== null));
    setText(message, fault ?? "");
    message.hidden = fault === null;
    return fault === null;
  };

  input.addEventListener("input", () => {
    if (input.getAttribute("aria-invalid") === "true") check();
  });
  return { value, check, focus: () => input.focus() };
}
