// A text field with its own message: says what is wrong next to the field when
// the form is sent, and takes the message back as soon as the name is right.

import { byId, setText } from "./dom";

export interface Field {
  /** The name as it would be sent. */
  value(): string;
  /** Shows what is wrong, if anything; true if the name can be used. */
  check(): boolean;
  focus(): void;
}

export function field(id: string, faultOf: (name: string) => string | null): Field {
  const input = byId<HTMLInputElement>(id);
  const message = byId(`${id}-fault`);
  // Phones like to add a blank after a completed word; nobody means it.
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
