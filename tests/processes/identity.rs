//! Verified identity and who may call the roll: what a token must be, what each forged one comes to, where keys come
//! from while their source misbehaves, what clients and callers are told, and the binary as an operator runs it.

mod callers;
mod clients;
mod expiry;
mod keys;
mod processes;
mod source;
mod tokens;
