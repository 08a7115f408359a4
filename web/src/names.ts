// The rules for names of rooms and users, and the encoding of a name in an address. The server
// enforces the same rules. The check on the page allows a message next to the field instead of an
// error page.

const MAX_BYTES = 256;

/** Names that a room cannot have: they have another meaning for the server or the address bar. */
const RESERVED_ROOMS = new Set(["_", ".", "..", "socket.io"]);

/** The error of a room name, or null if it is valid. */
export function roomFault(name: string): string | null {
  if (name === "") return "Which room? Please give its name.";
  if (RESERVED_ROOMS.has(name)) return `Sorry, “${name}” cannot be a room. Please choose another name.`;
  return nameFault(name);
}

/** The error of a user name, or null if it is valid. */
export function userFault(name: string): string | null {
  if (name === "") return "Who are you? Please give a name.";
  return nameFault(name);
}

function nameFault(name: string): string | null {
  if (/\p{Cs}/u.test(name)) return "This name holds half a character. Please type it again.";
  if (/\p{Cc}/u.test(name)) return "This name holds a control character, such as a tab. Please take it out.";
  const bytes = new TextEncoder().encode(name).length;
  if (bytes > MAX_BYTES) return `This name is too long: ${bytes} bytes, and ${MAX_BYTES} is the most.`;
  return null;
}

/**
 * Percent-encodes a name for a path segment. Stricter than encodeURIComponent,
 * so that the address can also be pasted in a shell without quotes.
 */
export function encodeName(name: string): string {
  return encodeURIComponent(name).replace(
    /[!'()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** The room that an address path names, or null if its encoding is invalid. */
export function roomOfPath(path: string): string | null {
  try {
    return decodeURIComponent(path.split("/")[1] ?? "");
  } catch {
    return null;
  }
}
