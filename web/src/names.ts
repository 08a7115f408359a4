// The rules for room and user names, and how a name becomes part of an address.
// The server holds the same rules and has the last word; checking here as well
// lets the page answer next to the field instead of with an error page.

const MAX_BYTES = 256;

/** Names a room cannot have: the server or the address bar gives them another meaning. */
const RESERVED_ROOMS = new Set(["_", ".", "..", "socket.io"]);

/** Says what is wrong with a room name, or null if it can be used. */
export function roomFault(name: string): string | null {
  if (name === "") return "Which room? Please give its name.";
  if (RESERVED_ROOMS.has(name)) return `Sorry, “${name}” cannot be a room. Please choose another name.`;
  return nameFault(name);
}

/** Says what is wrong with a user name, or null if it can be used. */
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

/** The room an address path names, or null if its encoding is broken. */
export function roomOfPath(path: string): string | null {
  try {
    return decodeURIComponent(path.split("/")[1] ?? "");
  } catch {
    return null;
  }
}
