//! Verified identity and API access: the token checks, forged tokens, key sources that fail, the answers to clients and
//! callers, and the binary with the flags of an operator.

mod callers;
mod clients;
mod expiry;
mod keys;
mod processes;
mod source;
mod tokens;
