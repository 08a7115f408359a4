// The user's token, if the cluster requires one. It is in the fragment (`#`) of the address, which
// browsers do not send, and is sent to this server only.

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";

/** The token, or null without one. */
export function myToken(): string | null {
  return token === "" ? null : token;
}

/** The fragment for links to other pages of this server, which passes the token on. */
export function withToken(address: string): string {
  return token === "" ? address : `${address}#token=${encodeURIComponent(token)}`;
}

/** After a refusal with this code, explains how to pass a token; empty for other codes. */
export function tokenAdvice(message: string): string {
  if (message.startsWith("token_missing:")) {
    return "This cluster wants a token: open this page again with #token=<your token> behind its address.";
  }
  if (message.startsWith("token_expired:")) {
    return "Your token has expired: open this page again with #token=<a new token> behind its address.";
  }
  return "";
}

// A change of the fragment alone does not reload the page.
window.addEventListener("hashchange", () => location.reload());
