// The reader's token, where the cluster wants one. It stands behind the `#` of the
// address, which no browser sends to anybody, and goes to this server alone.

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";

/** The token, or null without one. */
export function myToken(): string | null {
  return token === "" ? null : token;
}

/** What goes behind the address of another page of this server, so that the token comes along. */
export function withToken(address: string): string {
  return token === "" ? address : `${address}#token=${encodeURIComponent(token)}`;
}

/** Says, after a refusal with this code, how a token is passed; nothing when that is not what is missing. */
export function tokenAdvice(message: string): string {
  if (message.startsWith("token_missing:")) {
    return "This cluster wants a token: open this page again with #token=<your token> behind its address.";
  }
  if (message.startsWith("token_expired:")) {
    return "Your token has expired: open this page again with #token=<a new token> behind its address.";
  }
  return "";
}

// Another token behind the same address loads nothing by itself.
window.addEventListener("hashchange", () => location.reload());
